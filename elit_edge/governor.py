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

from elit_edge.planning import Curve, FloatVector, Plan, Planner
from elit_edge.sampling import Move

SLOWER_SHARE, FASTER_SHARE = 0.5, 0.25
"""How much one step's time moves the estimate of the machine's speed: quick to see it slow down, slower to trust it."""
SPARE = 0.1
"""Share of the time left that must lie idle before budgets rise."""
RATIO_RANGE = (0.1, 100.0)
"""Of measured over predicted time; beyond it the clock jumped."""
PRESSURE_EVERY_S = 1.0
SPREADS = 2.0
"""A step is begun if it would end in time even so many mean deviations late."""

Pressure = Callable[[], tuple[float, str]]
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
        pressure: Pressure | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`grid`: the times of the plan; `ends_at`: when the last step must be over, in seconds of `clock`."""
        self.changes: list[Change] = []
        self.landed = False
        """Whether the run ended before the last time of the grid."""
        self.own_ms = 0.0
        """Time that the governor itself took."""
        self._planner, self._plan, self._grid, self._batch = planner, plan, grid, batch
        self._ends_at, self._clock, self._pressure = ends_at, clock, pressure
        self._begun = self._pressed = clock()
        self._cap, self._why_capped = 1.0, ""
        self._ratio, self._deviation = 1.0, 0.0
        self._weak, self._at = plan.weak_latents, 0
        self._follow(planner.rest(plan, self._weak, grid, batch), list(range(1, len(grid))), list(plan.latents))

    def moves(self) -> Iterator[Move]:
        """The steps, each decided when it is asked for."""
        done = 0
        while self._path:
            begun = self._clock()
            if done and not self._steer(done, (self._ends_at - begun) * 1e3):
                self.landed = True
                self.own_ms += (self._clock() - begun) * 1e3
                return
            move = Move(self._path.pop(0), self._latents.pop(0), self._weak)
            predicted = self._cost[move.latents]
            self._left_ms -= predicted
            self._at = move.to
            started = self._clock()
            self.own_ms += (started - begun) * 1e3
            yield move
            self._observe((self._clock() - started) * 1e3 / predicted)
            done += 1

    @property
    def steps_left(self) -> int:
        """As planned now."""
        return len(self._path)

    def _follow(self, curve: Curve, path: list[int], latents: list[int]) -> None:
        """Go on over these times at these budgets."""
        self._curve, self._path, self._latents = curve, path, latents
        self._cost = dict(zip(curve.all_budgets, curve.all_step_ms, strict=True))
        self._least_ms = curve.least_ms
        self._left_ms = sum(self._cost[budget] for budget in latents)

    def _observe(self, ratio: float) -> None:
        """Learn from a step that took `ratio` times what was predicted."""
        ratio = min(max(ratio, RATIO_RANGE[0]), RATIO_RANGE[1])
        share = SLOWER_SHARE if ratio > self._ratio else FASTER_SHARE
        self._deviation += FASTER_SHARE * (abs(ratio / self._ratio - 1) - self._deviation)
        self._ratio += share * (ratio - self._ratio)

    def _steer(self, done: int, remaining_ms: float) -> bool:
        """Plan again where it is needed; False where no further step would end in time."""
        late = self._ratio * (1 + SPREADS * self._deviation)
        if self._least_ms * late > remaining_ms:
            return False
        expected = self._left_ms * self._ratio
        pressed = self._feel_pressure()
        if expected > remaining_ms:
            self._plan_again(done, remaining_ms, "behind time")
        elif expected * (1 + self._plan.margin) < (1 - SPARE) * remaining_ms and self._can_rise():
            self._plan_again(done, remaining_ms, "time to spare")
        elif pressed:
            self._plan_again(done, remaining_ms, self._why_capped or "the device has recovered")
        if self._cost[self._latents[0]] * late > remaining_ms:
            self._latents[0] = self._curve.dearest_within(remaining_ms / late)
        return True

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
        """The way on that loses least: over all times left, over fewer, with a weaker weak pass."""
        bound = remaining_ms / (self._ratio * (1 + self._plan.margin))
        before = (self._path, self._latents, self._weak)
        best: tuple[float, Curve, list[int], list[int], int] | None = None
        for weak in self._planner.weaker(self._plan):
            for path in self._paths(bound, weak):
                curve = self._over(path, weak)
                top = curve.top_of(self._cap, self._planner.flops)
                fitted = curve.fit(bound, top)
                loss = np.inf if fitted is None else fitted[1]
                if best is None or loss < best[0]:
                    best = (loss, curve, path, curve.latents(bound, top=top), weak)
            if best is not None and best[0] < np.inf:
                break
        assert best is not None
        _, curve, path, latents, self._weak = best
        self._follow(curve, path, latents)
        if before != (path, latents, self._weak):
            at_ms = (self._clock() - self._begun) * 1e3
            self.changes.append(Change(done, at_ms, why, len(path), tuple(latents), self._weak))

    def _over(self, path: list[int], weak: int) -> Curve:
        return self._planner.rest(self._plan, weak, self._grid[[self._at, *path]], self._batch)

    def _paths(self, bound_ms: float, weak: int) -> list[list[int]]:
        """Ways over the grid from here to its end: every time, three quarters of them, half, and as many as fit."""
        last = len(self._grid) - 1
        left = last - self._at
        fitting = int(bound_ms / self._over([last], weak).least_ms)
        counts = {left, left * 3 // 4, left // 2, min(left, fitting)}
        ways = [np.linspace(self._at, last, count + 1).round().astype(int)[1:] for count in counts if count >= 1]
        return [sorted(set(way.tolist())) for way in ways] or [[last]]
