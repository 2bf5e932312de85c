"""All plans of one runtime, guidance and grid of times, from the cheapest to the best.

A plan starts with the cheapest budget everywhere and is improved where a millisecond buys most, one step and one rung
at a time. On the lower convex hull of (cost, loss) that greedy order is optimal at every bound it stops at, and
budgets that are slower and worse than others are not on the hull at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
import numpy.typing as npt

from elit_edge.quality import Loss, Variant
from elit_edge.sampling import Solver

ROUNDING = 1e-9
"""A plan that takes the bound to the last bit fits it."""
WORTH_DIGITS = 9
"""Steps whose worth differs in the last bits alone are improved in their order."""

FloatVector = npt.NDArray[np.float64]


class Curve:
    """All plans of one runtime, guidance and grid of times, from the cheapest to the best."""

    def __init__(
        self, loss: Loss, variant: Variant, budgets: Sequence[int], step_ms: FloatVector, grid: FloatVector
    ) -> None:
        """`step_ms`: a step of one evaluation at each of `budgets`; `grid`: times, [steps + 1], falling."""
        self.variant, self.grid = variant, grid
        self.all_budgets, self.all_step_ms = tuple(budgets), tuple(step_ms.tolist())
        self.steps = len(grid) - 1
        lengths = grid[:-1] - grid[1:]
        weights = loss.weights(grid)
        self.evaluations = evaluations(loss.table.solver, self.steps)
        density = 1 / float(lengths.mean())
        squared = loss.squared(variant, density, budgets)
        rungs = _lower_hull(step_ms, squared)
        self.budgets = [budgets[i] for i in rungs]
        """The budgets worth having, cheapest first."""
        self.step_ms = step_ms[rungs]
        self.least_ms = float(self.step_ms[0])
        """The cheapest step."""
        values = squared[rungs]
        best = values[-1]
        self.losses = lengths * (best + weights * (values[0] - best))
        gains = (lengths * weights)[:, None] * -np.diff(values)[None, :]
        prices = self.evaluations[:, None] * np.diff(self.step_ms)[None, :]
        worth = gains / prices
        order = np.argsort(-np.round(worth / (worth.max(initial=0.0) or 1.0), WORTH_DIGITS), axis=None, kind="stable")
        # one entry an improvement, the one worth most first: which step it lifts, from which rung, its price and gain
        self.step_of = order // max(1, len(rungs) - 1)
        self.rung_of = order % max(1, len(rungs) - 1)
        self.prices, self.gains = prices.reshape(-1)[order], gains.reshape(-1)[order]
        self.add_up()

    def add_up(self) -> None:
        """Total what stands in the arrays."""
        self.base_ms = float(self.evaluations.sum()) * self.least_ms
        self.base_loss = float(self.losses.sum())
        self._spent, self._won = np.cumsum(self.prices), np.cumsum(self.gains)

    def tail(self, first: int) -> Curve:
        """The same for the steps from `first` on alone."""
        part = copy(self)
        part.grid, part.steps = self.grid[first:], self.steps - first
        part.evaluations, part.losses = self.evaluations[first:], self.losses[first:]
        left = self.step_of >= first
        part.step_of, part.rung_of = self.step_of[left] - first, self.rung_of[left]
        part.prices, part.gains = self.prices[left], self.gains[left]
        part.add_up()
        return part

    def fit(self, bound_ms: float, top: int | None = None) -> tuple[float, float] | None:
        """Time and loss of the best plan within `bound_ms` that uses no rung above `top`; None where there is none."""
        if self.base_ms > bound_ms * (1 + ROUNDING):
            return None
        if top is not None and top < len(self.budgets) - 1:
            _, spent, won = self._capped(bound_ms - self.base_ms, top)
            return self.base_ms + spent, self.base_loss - won
        count = int(np.searchsorted(self._spent, bound_ms - self.base_ms, side="right"))
        if count == 0:
            return self.base_ms, self.base_loss
        return self.base_ms + float(self._spent[count - 1]), self.base_loss - float(self._won[count - 1])

    def latents(self, bound_ms: float, top: int | None = None) -> list[int]:
        """The budgets of the steps within `bound_ms` for all of them; the cheapest where it is short."""
        rungs, _, _ = self._capped(bound_ms - self.base_ms, len(self.budgets) - 1 if top is None else top)
        return [self.budgets[rung] for rung in rungs]

    def _capped(self, spare_ms: float, top: int) -> tuple[list[int], float, float]:
        """The rung of each step, what they cost beyond the cheapest, and what they gain."""
        allowed = self.rung_of < top
        steps, prices, gains = self.step_of[allowed], self.prices[allowed], self.gains[allowed]
        spent = np.cumsum(prices)
        count = int(np.searchsorted(spent, spare_ms, side="right"))
        rungs = np.bincount(steps[:count], minlength=self.steps)
        return rungs.tolist(), float(spent[count - 1]) if count else 0.0, float(gains[:count].sum())

    def top_of(self, cap: float, flops: Mapping[int, int]) -> int:
        """The highest rung whose pass takes at most that share of the dearest budget's FLOPs."""
        full = max(flops.values())
        allowed = [i for i, budget in enumerate(self.budgets) if flops[budget] <= cap * full]
        return allowed[-1] if allowed else 0


def evaluations(solver: Solver, steps: int) -> FloatVector:
    """How often each step evaluates the model: [steps]. The last one of Heun's is plain."""
    counts = np.full(steps, 2.0 if solver == "heun" else 1.0)
    counts[-1] = 1.0
    return counts


def _lower_hull(costs: FloatVector, losses: FloatVector) -> list[int]:
    """Indices on the lower convex hull that still fall, cheapest first: the budgets that are worth their time."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], losses[i]))
    hull: list[int] = []
    for i in order:
        if hull and (losses[i] >= losses[hull[-1]] or costs[i] == costs[hull[-1]]):
            continue
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (losses[a] - losses[b]) * (costs[i] - costs[b]) > (losses[b] - losses[i]) * (costs[b] - costs[a]):
                break
            hull.pop()
        hull.append(i)
    return hull
