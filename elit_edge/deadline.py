"""A run against the clock: its plan, its governor, and the report of what was promised and what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from elit_edge.errors import DeadlineError, PlanError, RequestError
from elit_edge.frontier import FloatVector
from elit_edge.governor import Change, Governor, SustainableShare
from elit_edge.planning import Plan, Planner, Wish
from elit_edge.profiling.measuring import MEASURING_S, measure, spot_check
from elit_edge.runtimes.contract import Session
from elit_edge.sampling import GuidanceKind, Move

MEASURING_SHARE = 0.1
"""Of a deadline, for measuring a session that has no profile yet."""
CHECKING_SHARE = 0.1
"""Of the first deadline of a session, for finding out whether the machine is as fast today as it was profiled."""

_PLANNERS: WeakKeyDictionary[Session, Planner] = WeakKeyDictionary()


@dataclass(frozen=True)
class DeadlineReport:
    """What was promised and what came of it."""

    plan: Plan
    deadline_ms: float
    elapsed_ms: float
    """From the call of `generate` until its pictures were ready."""
    changes: tuple[Change, ...]
    """Each time that the governor left the plan."""
    landed: bool
    """Whether the run ended early, on the picture that its last step predicted."""
    distance: float
    """Expected distance of what was really run to the reference plan's pictures, read from the quality table."""
    governor_ms: float
    """Time that watching and planning again took."""

    @property
    def kept(self) -> bool:
        return self.elapsed_ms <= self.deadline_ms


class TimedRun:
    """One run with a deadline; `begun` is when its clock started."""

    def __init__(
        self,
        session: Session,
        classes: Sequence[int],
        begun: float,
        deadline_s: float | None,
        plan: Plan | None,
        guidance: GuidanceKind | None,
        pressure: SustainableShare | None,
        decoding_ms: float = 0.0,
    ) -> None:
        """`plan`: in place of one made here. Its bound is the deadline where there is no other. `decoding_ms`: of the
        deadline, held back for making pictures of the samples.

        Raises:
            RequestError: the deadline is no time.
            DeadlineError, PlanError: no plan keeps it.
        """
        if deadline_s is not None and not 0 < deadline_s < np.inf:
            raise RequestError(f"deadline = {deadline_s}: must be a number of seconds above 0")
        self._begun, self._pressure, self._batch = begun, pressure, len(classes)
        self._decoding_ms = decoding_ms
        if plan is not None and (plan.runtime, plan.precision) != (session.runtime, session.precision):
            raise PlanError(
                f"a plan for {plan.runtime} {plan.precision} on a session of {session.runtime} {session.precision}; "
                "prepare the bundle as the plan says",
                None,
            )
        bound_ms = plan.bound_ms if plan is not None and deadline_s is None else None
        self._planner = _planner(session, deadline_s if bound_ms is None else bound_ms / 1e3)
        self._planner.build(self._batch)
        self._cap = 1.0 if pressure is None else pressure()[0]
        if plan is None:
            assert deadline_s is not None
            left_ms = (begun + deadline_s - time.perf_counter()) * 1e3 - decoding_ms
            if left_ms <= 0:
                decoding = f" and {decoding_ms:.0f} ms held back for decoding" if decoding_ms else ""
                raise DeadlineError(
                    f"of {deadline_s * 1e3:.0f} ms nothing was left after measuring the session{decoding}; "
                    "Bundle.prepare(runtime='auto') measures ahead and remembers",
                    None,
                )
            # the null class of cfg and ccfg is one class more
            wish = Wish(len(classes), len(set(classes)) + 1, deadline_ms=left_ms, guidance=guidance, cap=self._cap)
            plan = self._planner.plan(wish)
        self.plan = plan
        self._bound_ms = plan.bound_ms if deadline_s is None else deadline_s * 1e3
        self._governor: Governor | None = None
        self._given = 0

    @property
    def steps_left(self) -> int:
        return self.plan.steps - self._given if self._governor is None else self._governor.steps_left

    def moves(self, grid: FloatVector) -> Iterator[Move]:
        """The steps over the plan's times, decided by the governor if time is bound. Call just before the first."""
        if self._bound_ms is None:
            return self._as_planned()
        finish_ms = self._planner.finish_ms(self.plan, self._batch) + self._decoding_ms
        ends_at = self._begun + (self._bound_ms - finish_ms) / 1e3
        self._governor = Governor(
            self._planner, self.plan, grid, self._batch, ends_at, pressure=self._pressure, cap=self._cap
        )
        return self._governor.moves()

    def _as_planned(self) -> Iterator[Move]:
        for given, latents in enumerate(self.plan.latents, 1):
            self._given = given
            yield Move(self._given, latents, self.plan.weak_latents)

    def report(self, grid: FloatVector, taken: Sequence[Move]) -> DeadlineReport | None:
        """To be called when the pictures are ready; None without a bound of time."""
        if self._governor is None or self._bound_ms is None:
            return None
        self._planner.learn(self._governor.ratio, self._governor.deviation, len(taken))
        visited = [0, *(move.to for move in taken)]
        visited[-1] = len(grid) - 1  # a run that ended early went from its last step's start to 0 at once
        steps = [((self.plan.guidance, move.weak_latents), move.latents) for move in taken]
        departure = self._planner.departures.get(self.plan.precision, 0.0)
        distance = math.hypot(self._planner.loss.of_steps(grid[visited], steps), departure)
        return DeadlineReport(
            plan=self.plan,
            deadline_ms=self._bound_ms,
            elapsed_ms=(time.perf_counter() - self._begun) * 1e3,
            changes=tuple(self._governor.changes),
            landed=self._governor.landed,
            distance=distance,
            governor_ms=self._governor.own_ms,
        )


def _planner(session: Session, deadline_s: float | None) -> Planner:
    """The planner of a session, made once; a session without a profile is measured now, one with a profile checked."""
    if session not in _PLANNERS:
        ratio = None
        if session.profile is None:
            seconds = MEASURING_S if deadline_s is None else min(MEASURING_S, deadline_s * MEASURING_SHARE)
            session.profile = measure(session, "", seconds=seconds)
            planner = Planner.of(session.manifest, [session.profile])
        else:
            planner = Planner.of(session.manifest, [session.profile])
            spare_ms = np.inf if deadline_s is None else deadline_s * 1e3 * CHECKING_SHARE
            ratio = spot_check(session, planner.candidates[0], spare_ms)
        planner.slowdown = 1.0 if ratio is None else ratio
        _PLANNERS[session] = planner
    return _PLANNERS[session]
