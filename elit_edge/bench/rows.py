"""From measured passes to the rows of a report: prediction, rate and quality beside each speed."""

from __future__ import annotations

import math

import numpy as np

from elit_edge.bench.figures import times_of
from elit_edge.bench.report import Candidate, PlanPoint, Row
from elit_edge.bench.worker import Passes, Warm
from elit_edge.costs import Costs, Profile
from elit_edge.device import Device
from elit_edge.errors import DeadlineError
from elit_edge.frontier import evaluations
from elit_edge.manifest import Manifest
from elit_edge.planning import Plan, Planner, Wish
from elit_edge.quality import Loss
from elit_edge.sampling import times

DEADLINES = 12
TIGHTEST_MS, LOOSEST_MS = 1e-6, 1e12
"""Deadlines that no plan and every plan keeps."""
ROUNDED_UP = 1.001
CLASSES = 2
"""Of one picture: its own and the null class."""


class Rows:
    """Makes the candidates of a report."""

    def __init__(self, manifest: Manifest, device: Device, threads: int | None) -> None:
        """`device`: with measured speed; its rates are those of all threads, so they say nothing of fewer."""
        self._manifest = manifest
        self._flops = {rung.latents: rung.velocity_flops for rung in manifest.ladder}
        rates = device.speed.matmul if device.speed is not None and threads is None else ()
        self._gops: dict[str, float | None] = {rate.precision: rate.gops for rate in rates}
        table = manifest.quality
        self._loss = None if table is None or table.origin == "published" else Loss(table)
        fewest, most = self._loss.step_counts if self._loss else (1, manifest.sampler.steps)
        self.steps = min(max(manifest.sampler.steps, fewest), most)
        """Of the plans beside the speeds: the bundle's own, or the nearest that its quality table knows."""

    def candidate(self, profile: Profile, found: Warm) -> Candidate:
        """One runtime at one precision, with what its profile predicted."""
        costs = Costs(profile, self._flops)
        return Candidate(
            runtime=profile.runtime,
            precision=profile.precision,
            version=profile.version,
            open_ms=found.open_ms,
            first_ms=found.first_ms,
            rows=tuple(self._row(costs, passes) for passes in found.passes),
            every_budget=len(found.passes) == len(self._flops),
            peak_bytes=found.peak_bytes,
            front=None if self._loss is None else self._front(profile),
        )

    def _row(self, costs: Costs, passes: Passes) -> Row:
        measured = times_of(passes.ms)
        predicted_ms = costs.pass_ms(passes.latents, 1)
        gflops = self._flops[passes.latents] / measured.median_ms / 1e6
        gops = self._gops.get(costs.profile.precision)
        return Row(
            latents=passes.latents,
            times=measured,
            predicted_ms=predicted_ms,
            relative_error=predicted_ms / measured.median_ms - 1,
            gflops=gflops,
            matmul_share=gflops / gops if gops else None,
            joules=passes.joules,
            plan_ms=self._plan_ms(costs, passes.latents),
            distance=self._distance(passes.latents, costs.profile.precision),
        )

    def _plan_ms(self, costs: Costs, latents: int) -> float:
        own = self._manifest.sampler
        step_ms = costs.step_ms(latents, 1, own.guidance, own.weak_latents)
        passes = float(evaluations(own.solver, self.steps).sum())
        return passes * step_ms + costs.condition_ms(self.steps * CLASSES)

    def _distance(self, latents: int, precision: str) -> float | None:
        """None where the table does not reach to the bundle's own plan at this budget."""
        own, loss = self._manifest.sampler, self._loss
        variant = (own.guidance, own.weak_latents)
        if loss is None or variant not in loss.variants or loss.table.solver != own.solver:
            return None
        least, full = loss.measured_latents(variant)
        if not least <= latents <= full:
            return None
        distance = loss.of(variant, times(own.solver, self.steps), [latents] * self.steps)
        return math.hypot(distance, self._manifest.departure(precision))

    def _front(self, profile: Profile) -> tuple[PlanPoint, ...]:
        """Plans for deadlines from the tightest that can be kept to that of the most steps at the full budget."""
        planner = Planner.of(self._manifest, [profile])
        least_ms = _tightest(planner).needed_ms * ROUNDED_UP
        most_ms = max(planner.plan(Wish(1, CLASSES, deadline_ms=LOOSEST_MS)).needed_ms * ROUNDED_UP, least_ms)
        plans = [
            planner.plan(Wish(1, CLASSES, deadline_ms=float(deadline_ms)))
            for deadline_ms in np.geomspace(least_ms, most_ms, DEADLINES)
        ]
        points = [
            PlanPoint(
                expected_ms=plan.expected_ms,
                distance=plan.distance,
                steps=plan.steps,
                least_latents=min(plan.latents),
                most_latents=max(plan.latents),
                guidance=plan.guidance,
            )
            for plan in plans
        ]
        return tuple(sorted(set(points), key=lambda point: point.expected_ms))


def _tightest(planner: Planner) -> Plan:
    """The plan that comes nearest to no time at all."""
    try:
        return planner.plan(Wish(1, CLASSES, deadline_ms=TIGHTEST_MS))
    except DeadlineError as error:
        if not isinstance(error.nearest, Plan):
            raise
        return error.nearest
