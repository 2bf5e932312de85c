"""Which budgets get something of their own where shapes are fixed: a graph, an engine profile, a function."""

from __future__ import annotations

from collections.abc import Sequence

from elit_edge.errors import BudgetError

MOST_BUDGETS, RATIO = 16, 2
"""So many budgets are made unless others are asked for; of a longer ladder those in this ratio, and the full one."""


def static_budgets(ladder: Sequence[int], asked: Sequence[int] = (), *, dear: bool = False) -> tuple[int, ...]:
    """The budgets asked for, or the ladder, thinned where it is long.

    Args:
        ladder: all budgets of the bundle, ascending.
        asked: latents a group; empty for the usual ones.
        dear: thin a short ladder too, since each budget costs a copy of the weights.

    Raises:
        BudgetError: one of them is not in the ladder.
    """
    for latents in asked:
        if latents not in ladder:
            known = f"{ladder[0]} to {ladder[-1]}" if len(ladder) > MOST_BUDGETS else ", ".join(map(str, ladder))
            raise BudgetError(f"budget {latents} is not in this model's ladder: {known}")
    if asked:
        return tuple(sorted(set(asked)))
    if len(ladder) <= MOST_BUDGETS and not dear:
        return tuple(ladder)
    wanted, latents = {ladder[-1]}, ladder[0]
    while latents < ladder[-1]:
        wanted.add(latents)
        latents *= RATIO
    return tuple(latents for latents in ladder if latents in wanted)
