"""What was proven of a precision before its bundle was written: the paired test against float32, by budget."""

from __future__ import annotations

from typing import Annotated

import msgspec

from elit_edge.model_config import Count, Digest, Positive

Above = Annotated[float, msgspec.Meta(gt=0)]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Interval(_Struct, frozen=True, kw_only=True):
    """An estimate and its 95% bootstrap interval over pictures."""

    low: float
    value: float
    high: float


class BudgetVerdict(_Struct, frozen=True, kw_only=True):
    """One budget of a precision against the same budget in float32; all pictures from the same seeds."""

    latents: Positive
    psnr_db: float
    """Least PSNR of a velocity against float32's, on states of trajectories that calibration has not seen; 999 where
    not a bit differs, -999 where it is not finite."""
    departure: Interval | None
    """Mean over pictures of |x - float32's x| / |float32's x|. None, as the two below, where there are no pictures to
    compare: none were asked for, or one came out broken, and a fault says so."""
    loss: Interval | None
    """Change of the mean distance to the reference's pictures of the same seeds, a distance being |x - reference| /
    |reference|. The reference is float32 at the full budget in twice the steps."""
    frechet: Interval | None
    """Relative change of the Frechet distance to the reference's pictures of other seeds; None without features too.
    Both distances hold the same sampling noise, which makes the change smaller and falls with more pictures."""


class Speed(_Struct, frozen=True, kw_only=True):
    """Typical time of a pass for one sample, of all runtimes and both precisions in turn in one process."""

    runtime: str
    version: str
    latents: Positive
    fp32_ms: Above
    own_ms: Above | None
    """In the precision; None where the runtime cannot compute it."""

    @property
    def ratio(self) -> float | None:
        """How many times faster than float32 on the same runtime."""
        return None if self.own_ms is None else self.fp32_ms / self.own_ms


class Verdict(_Struct, frozen=True, kw_only=True):
    """Whether a precision is worth having, and on what that was judged."""

    gate_db: float
    pictures: Count
    """At each budget and precision; 0: the verdict is of velocities, speed and size alone."""
    steps: Positive
    seed: Count
    """Of the pictures: those at 16 i and after are drawn from seed + i."""
    features_sha256: Digest | None
    budgets: Annotated[tuple[BudgetVerdict, ...], msgspec.Meta(min_length=1)]
    speeds: tuple[Speed, ...]
    """Of each ready runtime that can compute float32, at the least, a middle and the full budget."""
    failed: tuple[str, ...] = ()
    """What crashed or was refused when its speed was measured, and why."""
    size_ratio: Above
    """Bytes of the precision's graphs and weights over those of float32's, without graphs of single budgets."""
    device: str
    """Where it was measured, for a person."""
    faults: tuple[str, ...]
    """Why it was refused; a bundle that has them was written with --accept-anyway."""

    @property
    def accepted(self) -> bool:
        return not self.faults

    @property
    def departure(self) -> float:
        """How far finished pictures are from float32's at the worst budget; 0 where none were compared."""
        return max((budget.departure.value for budget in self.budgets if budget.departure is not None), default=0.0)

    @property
    def worst_psnr_db(self) -> float:
        return min(budget.psnr_db for budget in self.budgets)


class Calibration(_Struct, frozen=True, kw_only=True):
    """How a precision of the bundle was made."""

    precision: str
    record: str
    """File of the bundle with layers, ranges and sensitivities; docs/calibration.md."""
    set_sha256: Digest | None
    """Of the calibration set; None for a precision that needs none."""
    float_layers: tuple[str, ...]
    """Matrix products that are not computed in the precision but in float32, by the name of their layer."""
    verdict: Verdict
