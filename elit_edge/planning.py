"""Plans: which runtime, steps, budgets and guidance make the best pictures within a bound. Pure; no clock, no model.

For each runtime, guidance and number of steps the frontier (frontier.py) gives the best plan within the bound; the
best of those is the plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np

from elit_edge.costs import Costs, Profile
from elit_edge.errors import DeadlineError, PlanError
from elit_edge.frontier import ROUNDING, Curve, FloatVector
from elit_edge.manifest import Manifest
from elit_edge.quality import Loss, Variant, published_table
from elit_edge.sampling import GuidanceKind, Solver, times

CONFIDENCE = 0.9
"""Chance that a plan's time is kept without the governor's help."""
LEAST_DRIFT = 0.04
"""No machine's speed is steadier than this from one second to the next."""
LEARNING = 0.4
"""How much each step of a run counts for the slowdown that the next plan expects."""
STEP_RATIO = 1.12
"""Numbers of steps that are considered lie this far apart."""

FINISHES = 4.0
"""Checks and pixels after the last step, in units of the solver's arithmetic of a step."""
LEAST_DEVIATION, LARGEST_DEVIATION = 0.1, 0.25
"""Of a step from the estimate: however steady the last ones were, and the most that is learned from one."""
SPREADS = 5.0
"""A step is begun if it would end in time even so many mean deviations late."""


@dataclass(frozen=True)
class Wish:
    """What pictures, within which bounds. None: no bound of that kind; at least one must be given."""

    batch: int
    classes: int
    """Different labels, the null class included where guidance needs it."""
    deadline_ms: float | None = None
    memory_bytes: int | None = None
    joules: float | None = None
    guidance: GuidanceKind | None = None
    """Guidance that the user insists on."""
    cap: float = 1.0
    """Share of the full budget's FLOPs that a step may take, under thermal or battery pressure."""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.deadline_ms, self.memory_bytes, self.joules) if bound is not None]
        if not bounds:
            raise PlanError("a plan needs a bound: a deadline, memory or energy", None)
        if not all(bound > 0 for bound in bounds):  # a bound that is no number is not, either
            raise PlanError(f"bounds {bounds}: each must be a number above 0", None)


@dataclass(frozen=True)
class Plan:
    """One way to make the pictures."""

    runtime: str
    precision: str
    solver: Solver
    guidance: GuidanceKind
    weak_latents: int
    latents: tuple[int, ...]
    """The budget of each step."""
    distance: float
    """Expected distance to the reference plan's pictures."""
    expected_ms: float
    """Expected time, without a margin."""
    margin: float
    """Share of the expected time held back for the confidence."""
    memory_bytes: int | None
    joules: float | None
    bound_ms: float | None = None
    """The time that the plan has to fit: of the deadline, or of the energy."""

    @property
    def steps(self) -> int:
        return len(self.latents)

    @property
    def needed_ms(self) -> float:
        """The least deadline that it keeps at its confidence."""
        return self.expected_ms * (1 + self.margin)

    @property
    def needed_joules(self) -> float | None:
        """The least energy bound that it keeps at its confidence."""
        return None if self.joules is None else self.joules * (1 + self.margin)

    def words(self) -> str:
        """One line for a person."""
        low, high = min(self.latents), max(self.latents)
        span = str(low) if low == high else f"{low} to {high}"
        weak = f" weak {self.weak_latents}" if self.guidance in ("ccfg", "autoguidance") else ""
        return (
            f"{self.runtime} {self.precision}, {self.steps} steps at {span} latents, {self.guidance}{weak}: "
            f"{self.expected_ms:.0f} ms expected, distance {self.distance:.3f}"
        )


@dataclass(frozen=True)
class Row:
    """One line of what a planner chose from."""

    plan: Plan
    verdict: str
    """"chosen", "worse", or why it does not fit."""


@dataclass(frozen=True)
class _Option:
    """The best way to fulfil a wish with one runtime, guidance and number of steps; the cheapest where none fits."""

    costs: Costs
    curve: Curve
    loss: float
    expected_ms: float
    margin: float
    memory_bytes: int | None
    bound_ms: float
    step_bound_ms: float
    """Of the bound, what is left for the steps, at the speed that was profiled."""
    top: int | None
    fault: str | None

    def rank(self) -> tuple[float, float]:
        """Best first."""
        return self.loss, self.expected_ms


@dataclass
class Planner:
    """Plans for one bundle on one device. Curves are kept, so that a second wish costs a millisecond."""

    candidates: Sequence[Costs]
    loss: Loss
    flops: Mapping[int, int]
    """Of one pass for one sample at each budget of the bundle."""
    opening: bool = False
    """Whether a plan pays for opening its runtime, too."""
    confidence: float = CONFIDENCE
    slowdown: float = 1.0
    """Measured over predicted time, as runs and spot checks have found it lately: the machine is not always as fast as
    when it was profiled."""
    departures: Mapping[str, float] = field(default_factory=dict)
    """How far a precision's pictures are from float32's, by precision; a table is of float32's."""
    deviation: float = LEAST_DEVIATION
    """How far a step's time lies from what the steps before it let expect, on the mean, as found lately."""
    _curves: dict[tuple[int, Variant, int, int], Curve] = field(default_factory=dict)
    _step_ms: dict[tuple[int, Variant, int], FloatVector] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._deviates = NormalDist().inv_cdf(self.confidence)
        """Standard deviations that the confidence asks for."""

    @classmethod
    def of(cls, manifest: Manifest, profiles: Sequence[Profile], *, opening: bool = False) -> Planner:
        """A planner for a bundle: with its own quality table, or the paper's figures until it has one."""
        defaults = manifest.sampler
        table = manifest.quality or published_table(
            manifest.latents_per_group, defaults.guidance, defaults.weak_latents, defaults.scale
        )
        flops = {rung.latents: rung.velocity_flops for rung in manifest.ladder}
        departures = {precision: manifest.departure(precision) for precision in manifest.precisions}
        costs = [Costs(profile, flops) for profile in profiles]
        return cls(costs, Loss(table), flops, opening=opening, departures=departures)

    def plan(self, wish: Wish) -> Plan:
        """The best plan within the bounds.

        Raises:
            DeadlineError: no plan is fast enough.
            PlanError: no plan fits the memory or energy, or none can be held against it.
                The error's `nearest` is the plan that comes closest.
        """
        fitting = [option for option in self._options(wish) if option.fault is None]
        if not fitting:
            self.table(wish)  # says what is in the way
        return self._plan_of(min(fitting, key=_Option.rank), wish)

    def table(self, wish: Wish) -> list[Row]:
        """The best plan of each runtime, guidance and number of steps, best first: what `plan` chose from.

        Raises:
            DeadlineError, PlanError: as `plan`.
        """
        options = self._options(wish)
        fitting = sorted((option for option in options if option.fault is None), key=_Option.rank)
        failing = [Row(self._plan_of(option, wish), option.fault) for option in options if option.fault is not None]
        if not fitting:
            raise self._infeasible(wish, [row.plan for row in failing])
        failing.sort(key=lambda row: row.plan.expected_ms)
        rows = [Row(self._plan_of(option, wish), "worse") for option in fitting]
        rows[0] = replace(rows[0], verdict="chosen")
        return rows + failing

    def build(self, batch: int) -> None:
        """Make all curves of a batch, so that a plan costs no more than looking them up."""
        for index in range(len(self.candidates)):
            for variant in self.loss.variants:
                for steps in self._step_counts():
                    self._curve(index, variant, steps, batch)

    def learn(self, ratio: float, deviation: float, steps: int) -> None:
        """Expect of the next run what the last one of `steps` steps was like: its speed, and how unsteady that was."""
        jump = min(abs(ratio / self.slowdown - 1), LARGEST_DEVIATION)
        self.deviation += LEARNING * (max(deviation, jump, LEAST_DEVIATION) - self.deviation)
        self.slowdown += (1 - (1 - LEARNING) ** steps) * (ratio - self.slowdown)

    def rest(self, plan: Plan, weak_latents: int, grid: FloatVector, batch: int) -> Curve:
        """All ways to go on with a plan over the times that are left.

        Raises:
            PlanError: the planner has no costs of the plan's runtime.
        """
        return self._on_grid(self._costs(plan)[0], (plan.guidance, weak_latents), grid, batch)

    def _costs(self, plan: Plan) -> tuple[int, Costs]:
        for index, costs in enumerate(self.candidates):
            if (costs.profile.runtime, costs.profile.precision) == (plan.runtime, plan.precision):
                return index, costs
        raise PlanError(f"no costs of {plan.runtime} {plan.precision} to go on with this plan", None)

    def least_ms(self, plan: Plan, weak_latents: int, batch: int) -> float:
        """The cheapest step of a plan's runtime and guidance."""
        index, _ = self._costs(plan)
        return float(self._steps_ms(index, (plan.guidance, weak_latents), batch).min())

    def weaker(self, plan: Plan) -> list[int]:
        """The weak budgets that a plan's guidance may fall back to, its own first, then less and less."""
        own = {weak for kind, weak in self.loss.variants if kind == plan.guidance and weak < plan.weak_latents}
        return [plan.weak_latents, *sorted(own, reverse=True)]

    def overhead_ms(self, costs: Costs, steps: int, batch: int, classes: int) -> float:
        """What a run costs beside its steps: waking, conditions, the end and, where asked for, opening the runtime."""
        profile = costs.profile
        opening = profile.open_ms if self.opening else 0.0
        around = profile.waking_ms + FINISHES * profile.solver_ms * batch
        return costs.condition_ms(steps * classes) + around + opening

    def finish_ms(self, plan: Plan, batch: int) -> float:
        """What is left to do after the last step."""
        return FINISHES * self._costs(plan)[1].profile.solver_ms * batch

    def _variants(self, wish: Wish) -> list[Variant]:
        variants = [v for v in self.loss.variants if wish.guidance in (None, v[0])]
        if not variants:
            known = ", ".join(dict.fromkeys(kind for kind, _ in self.loss.variants))
            raise PlanError(
                f"guidance {wish.guidance} is not in the bundle's quality table, which has: {known}; "
                "choose one of them, or give steps and latents instead of a bound",
                None,
            )
        return variants

    def _step_counts(self) -> list[int]:
        least, most = self.loss.step_counts
        counts, value = [least], float(least)
        while counts[-1] < most:
            value = max(value * STEP_RATIO, counts[-1] + 1.0)
            counts.append(min(round(value), most))
        return counts

    def _curve(self, index: int, variant: Variant, steps: int, batch: int) -> Curve:
        key = (index, variant, steps, batch)
        if key not in self._curves:
            self._curves[key] = self._on_grid(index, variant, times(self.loss.table.solver, steps), batch)
        return self._curves[key]

    def _on_grid(self, index: int, variant: Variant, grid: FloatVector, batch: int) -> Curve:
        return Curve(self.loss, variant, self._budgets(variant), self._steps_ms(index, variant, batch), grid)

    def _budgets(self, variant: Variant) -> list[int]:
        """Those whose loss is known."""
        least, most = self.loss.measured_latents(variant)
        return [latents for latents in sorted(self.flops) if least <= latents <= most]

    def _steps_ms(self, index: int, variant: Variant, batch: int) -> FloatVector:
        """A step of one evaluation at each budget."""
        key = (index, variant, batch)
        if key not in self._step_ms:
            costs = self.candidates[index]
            self._step_ms[key] = np.array([costs.step_ms(j, batch, *variant) for j in self._budgets(variant)])
        return self._step_ms[key]

    def _options(self, wish: Wish) -> list[_Option]:
        """The best of each runtime, guidance and number of steps, or what it breaks."""
        return [
            self._option(costs, self._curve(index, variant, steps, wish.batch), wish)
            for index, costs in enumerate(self.candidates)
            for variant in self._variants(wish)
            for steps in self._step_counts()
        ]

    def _option(self, costs: Costs, curve: Curve, wish: Wish) -> _Option:
        profile = costs.profile
        overhead = self.overhead_ms(costs, curve.steps, wish.batch, wish.classes)
        # the fewer steps, the less can be made up for by the governor
        margin = max(self._deviates * max(profile.drift, LEAST_DRIFT), SPREADS * self.deviation / curve.steps)
        bound = np.inf if wish.deadline_ms is None else wish.deadline_ms
        if wish.joules is not None and profile.watts:
            bound = min(bound, wish.joules / profile.watts * 1e3)
        memory = costs.memory_bytes(wish.batch if curve.variant[0] != "cfg" else 2 * wish.batch)
        top = None if wish.cap >= 1 else curve.top_of(wish.cap, self.flops)
        step_bound = bound / ((1 + margin) * self.slowdown) - overhead
        fitted = curve.fit(step_bound, top)
        fault = None
        if fitted is None:
            fault = "too slow" if bound == wish.deadline_ms else "too much energy"
        if not _within(memory, wish.memory_bytes):
            fault = "memory not measured" if memory is None else "too much memory"
        if wish.joules is not None and not profile.watts:
            fault = "no energy sensor"
        steps_ms, loss = fitted or (curve.base_ms, curve.base_loss)
        loss += self.departures.get(profile.precision, 0.0) ** 2
        expected = (steps_ms + overhead) * self.slowdown
        return _Option(
            costs, curve, loss, expected, margin, memory, bound, step_bound if fitted else curve.base_ms, top, fault
        )

    def _plan_of(self, option: _Option, wish: Wish) -> Plan:
        guidance, weak_latents = option.curve.variant
        bounded = wish.deadline_ms is not None or (wish.joules is not None and np.isfinite(option.bound_ms))
        return Plan(
            runtime=option.costs.profile.runtime,
            precision=option.costs.profile.precision,
            solver=self.loss.table.solver,
            guidance=guidance,
            weak_latents=weak_latents,
            latents=tuple(option.curve.latents(option.step_bound_ms, top=option.top)),
            distance=float(np.sqrt(max(option.loss, 0.0))),
            expected_ms=option.expected_ms,
            margin=option.margin,
            memory_bytes=option.memory_bytes,
            joules=option.costs.joules(option.expected_ms),
            bound_ms=option.bound_ms if bounded else None,
        )

    def _infeasible(self, wish: Wish, plans: list[Plan]) -> PlanError:
        """The bound that stands in the way, and the plan that comes closest to it while it keeps the others."""
        if wish.joules is not None and all(plan.joules is None for plan in plans):
            return PlanError(
                "an energy bound needs a sensor, and none is readable here (elit-edge probe); leave the bound", None
            )
        if wish.memory_bytes is not None and all(plan.memory_bytes is None for plan in plans):
            return PlanError(
                "a memory bound needs measured memory, and this platform does not tell it; leave the bound", None
            )
        small = [plan for plan in plans if _within(plan.memory_bytes, wish.memory_bytes)]
        if not small:
            nearest = min(plans, key=lambda plan: (plan.memory_bytes or math.inf, plan.needed_ms))
            return PlanError(
                f"no plan holds within {(wish.memory_bytes or 0) / 1e6:.0f} MB for {wish.batch} pictures at once; the "
                f"nearest needs {math.ceil((nearest.memory_bytes or 0) / 1e6)} MB: {nearest.words()}",
                nearest,
            )
        thrifty = [plan for plan in small if _within(plan.needed_joules, wish.joules)]
        if not thrifty:
            nearest = min(small, key=lambda plan: plan.needed_joules or math.inf)
            return PlanError(
                f"no plan takes at most {wish.joules:g} J; the nearest needs "
                f"{'an unknown energy' if nearest.needed_joules is None else _rounded_up(nearest.needed_joules)}: "
                f"{nearest.words()}",
                nearest,
            )
        nearest = min(thrifty, key=lambda plan: plan.needed_ms)
        return DeadlineError(
            f"no plan keeps {wish.deadline_ms:.0f} ms here; the fastest needs {math.ceil(nearest.needed_ms)} ms: "
            f"{nearest.words()}",
            nearest,
        )


def _rounded_up(joules: float) -> str:
    """To three digits, and never less than it is: what is printed can be asked for."""
    unit = 10.0 ** (math.floor(math.log10(joules)) - 2)
    return f"{math.ceil(joules / unit) * unit:.3g} J"


def _within(value: float | None, bound: float | None) -> bool:
    return bound is None or (value is not None and value <= bound * (1 + ROUNDING))
