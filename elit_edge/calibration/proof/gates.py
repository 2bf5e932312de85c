"""The rules by which a precision is accepted: pure, so that a verdict can be judged again wherever it is read.

A precision must be as good at every budget, the worst one decides, and it must be worth having: faster or smaller.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from elit_edge.parity import EXACT_DB
from elit_edge.verdict import BudgetVerdict, Interval, Verdict

MARGIN = 0.05
"""Loss of pictures that is borne, at any budget."""
FASTER = 1.02
"""Less than this is not told from the clock's noise."""
SMALLER = 0.98


def faults(verdict: Verdict) -> tuple[str, ...]:
    """Why a precision is refused; its own `faults` are not looked at.

    - Its velocity is below the gate at any budget: `gate_db`, for every state, so the least PSNR counts.
    - Its pictures are shown to be worse by more than MARGIN at any budget: the low end of the interval is above it.
      With features that is the change of the Frechet distance; without, the change of the distance to the reference's
      pictures, in parts of a picture's norm.
    - It is neither faster nor smaller: `speedup` at most FASTER or unknown, and `size_ratio` at least SMALLER.

    Pictures that could not be made are faults that whoever made them adds.
    """
    found = [fault for budget in verdict.budgets for fault in _budget_faults(budget, verdict)]
    gain = speedup(verdict)
    if not (gain is not None and gain > FASTER) and not verdict.size_ratio < SMALLER:
        speed = "its speed could not be measured" if gain is None else f"{gain:.2f} times as fast as fp32"
        found.append(f"neither faster nor smaller: {speed}, {verdict.size_ratio:.2f} of its bytes")
    return tuple(found)


def caveats(verdict: Verdict) -> tuple[str, ...]:
    """What was not shown, or is a price to know of, and refuses nothing."""
    found = [words for budget in verdict.budgets for words in _budget_caveats(budget, verdict)]
    if verdict.pictures == 0:
        found.append("no pictures were compared: their quality is not shown")
    slower = {latents: gain for latents, gain in speedups(verdict).items() if gain < 1}
    found += [f"slower than fp32 at {latents} latents: {gain:.2f} times as fast" for latents, gain in slower.items()]
    return (*found, *(f"speed not measured: {words}" for words in verdict.failed))


def speedups(verdict: Verdict) -> dict[int, float]:
    """By latents: how many times as fast as float32, each on the runtime where it is fastest; empty if unknown."""
    found = {}
    for latents in sorted({speed.latents for speed in verdict.speeds}):
        here = [speed for speed in verdict.speeds if speed.latents == latents]
        own = [speed.own_ms for speed in here if speed.own_ms is not None]
        if own:
            found[latents] = min(speed.fp32_ms for speed in here) / min(own)
    return found


def speedup(verdict: Verdict) -> float | None:
    """The geometric mean of `speedups` over the measured budgets; None if unknown."""
    ratios = list(speedups(verdict).values())
    return float(np.exp(np.log(ratios).mean())) if ratios else None


def _budget_faults(budget: BudgetVerdict, verdict: Verdict) -> Iterator[str]:
    at, bar = f"at {budget.latents} latents", f"the gate is {verdict.gate_db:g} dB"
    if budget.psnr_db <= -EXACT_DB:
        yield f"{at} its velocity is not finite, or far from any; {bar}"
    elif budget.psnr_db < verdict.gate_db:
        yield f"{at} its velocity is {budget.psnr_db:.2f} dB from fp32's, and {bar}"
    name, change = _decisive(budget)
    if change is not None and change.low > MARGIN:
        yield f"{at} {name} is shown to be worse by more than {MARGIN:.0%}: {_words(change, verdict)}"


def _budget_caveats(budget: BudgetVerdict, verdict: Verdict) -> Iterator[str]:
    name, change = _decisive(budget)
    if change is not None and change.low <= MARGIN < change.high:
        yield f"{name} is not shown to be within {MARGIN:.0%} at {budget.latents} latents: {_words(change, verdict)}"


def _decisive(budget: BudgetVerdict) -> tuple[str, Interval | None]:
    if budget.frechet is not None:
        return "the Frechet distance", budget.frechet
    return "the distance to the reference", budget.loss


def _words(change: Interval, verdict: Verdict) -> str:
    return f"{change.low:+.1%} to {change.high:+.1%} ({verdict.pictures} pictures)"
