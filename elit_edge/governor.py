"""The governor: after every step it holds the clock against the plan, and plans again what is left.

It gives `solve` its moves. Behind time, budgets fall, then the weak budget of the guidance, then the number of steps,
as far as the quality table says that this loses least; with time to spare they rise again. When not even the
cheapest step would end in time, the run lands: the finished sample that the last step predicted is the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from elit_edge.frontier import Curve, FloatVector
from elit_edge.planning import LARGEST_DEVIATION, LEAST_DEVIATION, SPREADS, Plan, Planner
from elit_edge.sampling import Move

SLOWER_SHARE, FASTER_SHARE = 0.5, 0.25
"""How much one step's time moves the estimate of the machine's speed: quick to see it slow down, slower to trust it."""
LARGEST_GROWTH = 2.0
"""What one step may teach: a single stall is no reason to take the machine for a slow one."""
RATIO_RANGE = (0.1, 100.0)
"""Of measured over predicted time; beyond it the clock jumped."""
SPARE = 0.05
"""Share of the whole time that must lie idle, beside the plan's margin, before budgets rise."""
SERIOUS = 1.25
"""So far behind time, fewer steps at larger budgets are compared with the same steps at smaller ones."""
PRESSURE_EVERY_S = 1.0
PAUSE_MS = 1.5
"""The system itself pauses a process for so long now and then."""

SustainableShare = Callable[[], tuple[float, str]]
"""The share of the full budget's FLOPs that the device should carry now, 0..1, and why it is less than 1."""


@dataclass(frozen=True)
class Change:
    """One time that the governor left its plan."""

    step: int
    """Steps done before it."""
    at_ms: float
    """Since the run began."""
    why: str
    steps_left: int
    latents: tuple[int, ...]
    """The budgets of the steps left, as planned now."""
    weak_latents: int


class Governor:
    """Keeps one run within its time. Make it just before the first step; `moves` goes to `solve`."""

    def __init__(
        self,
        planner: Planner,
        plan: Plan,
        grid: FloatVector,
        batch: int,
        ends_at: float,
        *,
        pressure: SustainableShare | None = None,
        cap: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Made for one run.

        Args:
            planner: with the costs of the runtime that the run has.
            plan: to keep as long as it goes well.
            grid: the times of the plan.
            batch: pictures made at once.
            ends_at: when the last step must be over, in seconds of `clock`.
            pressure: asked once a second.
            cap: the share of the full budget that the plan was made for.
            clock: seconds, monotonic.
        """
        self.changes: list[Change] = []
        self.landed = False
        """Whether the run ended before the last time of the grid."""
        self.own_ms = 0.0
        """Time that the governor itself took."""
        self._planner, self._plan, self._grid, self._batch = planner, plan, grid, batch
        self._ends_at, self._clock, self._pressure = ends_at, clock, pressure
        self._spare_ms = SPARE * (ends_at - clock()) * 1e3
        self._begun = self._pressed = clock()
        self._cap, self._why_capped = cap, ""
        self._least_ms = min(planner.least_ms(plan, weak, batch) for weak in planner.weaker(plan))
        self._ratio, self._deviation = planner.slowdown, planner.deviation
        self._weak, self._at = plan.weak_latents, 0
        self._whole = {weak: planner.rest(plan, weak, grid, batch) for weak in planner.weaker(plan)}
        self._follow(self._whole[self._weak], list(range(1, len(grid))), list(plan.latents))

    def moves(self) -> Iterator[Move]:
        """The steps, each decided when it is asked for."""
        done = 0
        while self._path:
            begun = self._clock()
            remaining_ms = (self._ends_at - begun) * 1e3
            if done and not self._steer(done, remaining_ms):
                self.landed = True
                self.own_ms += (self._clock() - begun) * 1e3
                return
            self._hold_next(done, remaining_ms)
            move = Move(self._path.pop(0), self._latents.pop(0), self._weak)
            predicted = self._cost[move.latents] * self._evaluations.pop(0)
            self._left_ms -= predicted
            self._at = move.to
            started = self._clock()
            self.own_ms += (started - begun) * 1e3
            yield move
            self._observe((self._clock() - started) * 1e3 / predicted)
            done += 1

    @property
    def ratio(self) -> float:
        """Measured over predicted time of a step, as estimated now."""
        return self._ratio

    @property
    def deviation(self) -> float:
        """How far a step lies from that estimate, on the mean."""
        return self._deviation

    @property
    def steps_left(self) -> int:
        """As planned now."""
        return len(self._path)

    def _follow(self, curve: Curve, path: list[int], latents: list[int]) -> None:
        """Go on over these times at these budgets."""
        self._curve, self._path, self._latents = curve, path, latents
        self._cost = dict(zip(curve.all_budgets, curve.all_step_ms, strict=True))
        self._evaluations = curve.evaluations.tolist()
        self._left_ms = sum(
            self._cost[budget] * count for budget, count in zip(latents, self._evaluations, strict=True)
        )

    def _observe(self, ratio: float) -> None:
        """Learn from a step that took `ratio` times what was predicted."""
        ratio = min(max(ratio, RATIO_RANGE[0]), RATIO_RANGE[1])
        ratio = min(ratio, LARGEST_GROWTH * self._ratio)
        share = SLOWER_SHARE if ratio > self._ratio else FASTER_SHARE
        self._deviation += FASTER_SHARE * (min(abs(ratio / self._ratio - 1), LARGEST_DEVIATION) - self._deviation)
        self._ratio += share * (ratio - self._ratio)

    def _steer(self, done: int, remaining_ms: float) -> bool:
        """Plan again where it is needed; False where no further step would end in time."""
        if self._late_ms(self._least_ms) > remaining_ms:
            return False
        expected = self._left_ms * self._ratio
        pressed = self._feel_pressure()
        if expected > remaining_ms or self._late_ms(self._curve.least_ms) > remaining_ms:
            self._plan_again(done, remaining_ms, "behind time")
        elif expected * (1 + self._plan.margin) + self._spare_ms < remaining_ms and self._can_rise():
            self._plan_again(done, remaining_ms, "time to spare")
        elif pressed:
            self._plan_again(done, remaining_ms, self._why_capped or "the device has recovered")
        return True

    def _late_ms(self, predicted_ms: float) -> float:
        """What a step takes that comes late."""
        expected = self._ratio * predicted_ms
        return expected + max(expected * SPREADS * max(self._deviation, LEAST_DEVIATION), PAUSE_MS)

    def _hold_next(self, done: int, remaining_ms: float) -> None:
        """Take the next step at a budget at which it would end in time even if it came late."""
        evaluations = self._evaluations[0]
        if self._late_ms(self._cost[self._latents[0]] * evaluations) <= remaining_ms:
            return
        budget, *dearer = self._curve.budgets
        for each in dearer:
            if self._late_ms(self._cost[each] * evaluations) <= remaining_ms:
                budget = each
        if budget != self._latents[0]:
            self._left_ms += (self._cost[budget] - self._cost[self._latents[0]]) * evaluations
            self._latents[0] = budget
            self._record(done, "the next step would end late")

    def _record(self, done: int, why: str) -> None:
        at_ms = (self._clock() - self._begun) * 1e3
        self.changes.append(Change(done, at_ms, why, len(self._path), tuple(self._latents), self._weak))

    def _can_rise(self) -> bool:
        top = self._curve.budgets[self._top()]
        return min(self._latents) < top or len(self._path) < len(self._grid) - 1 - self._at

    def _top(self) -> int:
        return self._curve.top_of(self._cap, self._planner.flops)

    def _feel_pressure(self) -> bool:
        """Whether the share of the budget that the device should carry has changed; asked for once a second."""
        now = self._clock()
        if self._pressure is None or now - self._pressed < PRESSURE_EVERY_S:
            return False
        self._pressed, before = now, self._cap
        self._cap, self._why_capped = self._pressure()
        return self._cap != before

    def _plan_again(self, done: int, remaining_ms: float, why: str) -> None:
        """The way on that loses least: over all times left or fewer, with the plan's weak pass or a weaker one."""
        margin_ms = remaining_ms * self._plan.margin / (1 + self._plan.margin)
        held_ms = max(margin_ms, self._late_ms(self._least_ms) - self._ratio * self._least_ms)
        bound = max(remaining_ms - held_ms, 0.0) / self._ratio
        before = (self._path, self._latents, self._weak)
        found: list[tuple[float, float, list[int], int, Curve]] = []
        for weak in self._planner.weaker(self._plan):
            for path in self._paths(bound, weak):
                curve = self._way(path, weak)
                fitted = curve.fit(bound, curve.top_of(self._cap, self._planner.flops))
                found.append((np.inf if fitted is None else fitted[1], curve.base_ms, path, weak, curve))
        _, _, path, self._weak, curve = min(found, key=lambda way: way[:2])
        latents = curve.latents(bound, curve.top_of(self._cap, self._planner.flops))
        self._follow(curve, path, latents)
        if before != (path, latents, self._weak):
            self._record(done, why)

    def _way(self, path: list[int], weak: int) -> Curve:
        """All plans over these times; those over every time that is left are a part of the whole run's."""
        if len(path) == len(self._grid) - 1 - self._at:
            return self._whole[weak].tail(self._at)
        return self._planner.rest(self._plan, weak, self._grid[[self._at, *path]], self._batch)

    def _paths(self, bound_ms: float, weak: int) -> list[list[int]]:
        """Ways over the grid to its end that are worth comparing: the one in use, all times, and fewer in need."""
        last = len(self._grid) - 1
        left = last - self._at
        fitting = max(1, int(min(left, bound_ms / self._planner.least_ms(self._plan, weak, self._batch))))
        counts = {len(self._path), left, fitting}
        if self._left_ms > SERIOUS * bound_ms:
            counts |= {left * 3 // 4, left // 2}
        return [_spread(self._at, last, count) for count in counts if 0 < count <= fitting]


def _spread(at: int, last: int, count: int) -> list[int]:
    """`count` indices after `at`, evenly spread, the last one at the end."""
    return [at + round(i * (last - at) / count) for i in range(1, count + 1)]
