"""Which plans a quality table measures, and the work of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from elit_edge.errors import RequestError
from elit_edge.manifest import Manifest
from elit_edge.sampling import GuidanceKind, times

STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
REFERENCE_STEPS = 100
SIXTEENTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Budgets of a table, in sixteenths of the full one."""
BAND_STEPS = (4, 8)
BANDS = 4
OWN_WEAK_BUDGET: tuple[GuidanceKind, ...] = ("ccfg", "autoguidance")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`latents` while end < t <= start, the full budget elsewhere; guided alike at every step."""

    steps: int
    latents: int
    guidance: GuidanceKind
    weak_latents: int
    start: float = 1.0
    end: float = 0.0

    @property
    def is_band(self) -> bool:
        return (self.start, self.end) != (1.0, 0.0)

    def budgets(self, manifest: Manifest) -> tuple[int, ...]:
        """Latents of each step."""
        full = manifest.latents_per_group
        starts = times(manifest.sampler.solver, self.steps)[:-1]
        return tuple(self.latents if self.end < t <= self.start else full for t in starts)

    def work(self, manifest: Manifest) -> int:
        """FLOPs of one picture, without conditions."""
        flops = {rung.latents: rung.velocity_flops for rung in manifest.ladder}
        weak = flops[self.weak_latents] if self.guidance in OWN_WEAK_BUDGET else 0
        passes = 2 if self.guidance == "cfg" else 1
        stages = 2 if manifest.sampler.solver == "heun" else 1
        return stages * sum(passes * flops[latents] + weak for latents in self.budgets(manifest))


def reference_plan(manifest: Manifest) -> Plan:
    """The full budget, many steps, and the bundle's own guidance."""
    sampler = manifest.sampler
    guidance = sampler.guidance if sampler.scale > 1 else "none"
    return Plan(
        steps=REFERENCE_STEPS,
        latents=manifest.latents_per_group,
        guidance=guidance,
        weak_latents=sampler.weak_latents,
    )


def default_latents(manifest: Manifest) -> tuple[int, ...]:
    """The least budget, the full one, and about six between."""
    budgets, full = manifest.budgets, manifest.latents_per_group
    spread = {round(full * share / 16) for share in SIXTEENTHS}
    return tuple(budget for budget in budgets if budget == budgets[0] or budget in spread)


def table_plans(manifest: Manifest, steps: Sequence[int], latents: Sequence[int]) -> tuple[Plan, ...]:
    """The plans of a table, cheap ones first.

    The bundle's own guidance at every pair of steps and latents. The same with a larger weak budget, and none at all,
    at every second number of steps and budget. And bands of time: a small budget in a quarter of the run alone.

    Raises:
        RequestError: a number of steps below 1.
        BudgetError: latents that the bundle does not have.
    """
    if not steps or min(steps) < 1 or not latents:
        raise RequestError(f"steps {list(steps)}, latents {list(latents)}: at least one of each, and one step")
    for budget in latents:
        manifest.check_latents(budget)
    absent = sorted(set(latents) - set(manifest.budgets))
    if absent:
        raise RequestError(f"latents {absent}: the bundle's budgets are {list(manifest.budgets)}")
    full, own = manifest.latents_per_group, reference_plan(manifest)
    all_steps, all_latents = sorted({*steps}), sorted({*latents, manifest.budgets[0], full})
    variants = {(own.guidance, own.weak_latents): (all_steps, all_latents)}
    few = (_every_second(all_steps), _every_second(all_latents))
    larger = max(full // 4, own.weak_latents)
    if own.guidance in OWN_WEAK_BUDGET:
        variants.setdefault((own.guidance, larger), few)
    variants.setdefault(("none", own.weak_latents), few)
    plans = [
        Plan(steps=count, latents=budget, guidance=guidance, weak_latents=weak)
        for (guidance, weak), (counts, budgets) in variants.items()
        for count in counts
        for budget in budgets
        if guidance not in OWN_WEAK_BUDGET or budget >= weak
    ]
    small = {manifest.budgets[0], max(full // 4, manifest.budgets[0])} - {full}
    plans += [
        Plan(
            steps=count,
            latents=budget,
            guidance=own.guidance,
            weak_latents=own.weak_latents,
            start=1 - band / BANDS,
            end=1 - (band + 1) / BANDS,
        )
        for count in BAND_STEPS
        if count in all_steps
        for budget in sorted(small)
        for band in range(BANDS)
    ]
    return tuple(sorted(plans, key=lambda plan: (plan.work(manifest), plan.steps)))


def _every_second(values: Sequence[int]) -> list[int]:
    """From the last one down; the first stays."""
    return sorted({values[0], *values[::-2]})
