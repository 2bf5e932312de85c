"""What a step costs on this device: a few measured points, and the prediction of all others from them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from elit_edge.model_config import Positive
from elit_edge.sampling import GuidanceKind


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Point(_Struct, frozen=True, kw_only=True):
    """Measured passes at one budget and batch."""

    latents: Positive
    batch: Positive
    first_ms: float
    """The first pass of this shape, which some runtimes compile in."""
    median_ms: float
    p90_ms: float
    n: Positive


class Conditions(_Struct, frozen=True, kw_only=True):
    """Measured: the modulations of so many (time, label) pairs in one call."""

    rows: Positive
    median_ms: float


class Memory(_Struct, frozen=True, kw_only=True):
    """The most that a process of this runtime held while it computed batches up to this one."""

    batch: Positive
    peak_bytes: Positive


class Profile(_Struct, frozen=True, kw_only=True):
    """What one runtime at one precision was measured to cost on this device."""

    runtime: str
    precision: str
    version: str
    """Of the runtime's library."""
    threads: int | None
    open_ms: float
    points: tuple[Point, ...]
    conditions: tuple[Conditions, ...]
    solver_ms: float
    """The solver's own arithmetic a step and sample."""
    waking_ms: float
    """What a pass takes longer after a pause: threads have to be woken, caches are cold."""
    drift: float
    """How far whole rounds of measuring lay apart: standard deviation over mean."""
    memory: tuple[Memory, ...]
    """Empty where the platform does not tell."""
    watts: float | None
    """Mean power while computing; None without a sensor."""


class Costs:
    """Predictions from a profile: linear in FLOPs between measured budgets, and in the batch."""

    def __init__(self, profile: Profile, flops: Mapping[int, int]) -> None:
        """`flops`: of one pass for one sample at each budget of the bundle."""
        self.profile = profile
        self._flops = flops
        self._batches = sorted({point.batch for point in profile.points})
        self._curves = {batch: self._points(batch) for batch in self._batches}

    def _points(self, batch: int) -> tuple[list[float], list[float]]:
        rows = sorted((float(self._flops[p.latents]), p.median_ms) for p in self.profile.points if p.batch == batch)
        return [row[0] for row in rows], [row[1] for row in rows]

    def pass_ms(self, latents: int, batch: int) -> float:
        """One pass of the model for `batch` samples."""
        batches = self._batches
        if len(batches) == 1:
            return self._of_batch_ms(latents, batches[0]) * batch / batches[0]
        above = next((i for i, known in enumerate(batches) if known >= batch), len(batches) - 1)
        low, high = batches[max(above, 1) - 1], batches[max(above, 1)]
        at_low, at_high = self._of_batch_ms(latents, low), self._of_batch_ms(latents, high)
        if batch > high:
            at_high = max(at_high, at_low)  # noise may say that more is faster; it does not go on so
        floor = at_low * min(1.0, batch / low) if batch < low else 0.0
        return max(floor, at_low + (batch - low) * (at_high - at_low) / (high - low))

    def _of_batch_ms(self, latents: int, batch: int) -> float:
        """A measured batch. Of the larger ones few budgets are measured: beyond those it goes as the smallest does."""
        flops, least = float(self._flops[latents]), self._batches[0]
        known, times = self._curves[batch]
        nearest = min(max(flops, known[0]), known[-1])
        ms = float(np.interp(nearest, known, times))
        if nearest == flops or batch == least:
            return ms
        smallest = self._curves[least]
        return ms * float(np.interp(flops, *smallest)) / float(np.interp(nearest, *smallest))

    def step_ms(self, latents: int, batch: int, guidance: GuidanceKind, weak_latents: int) -> float:
        """One solver step of one evaluation: its passes, and the arithmetic around them."""
        own = self.profile.solver_ms * batch
        if guidance == "none":
            return self.pass_ms(latents, batch) + own
        if guidance == "cfg":
            return self.pass_ms(latents, 2 * batch) + own
        return self.pass_ms(latents, batch) + self.pass_ms(weak_latents, batch) + own

    def condition_ms(self, rows: int) -> float:
        """The modulations of so many (time, label) pairs."""
        known = sorted((c.rows, c.median_ms) for c in self.profile.conditions)
        if len(known) == 1:
            return known[0][1] * max(1.0, rows / known[0][0])
        (low, at_low), (high, at_high) = known[0], known[-1]
        return max(at_low, at_low + (rows - low) * (at_high - at_low) / (high - low))

    def memory_bytes(self, batch: int) -> int | None:
        """Peak memory of the process at a batch; None where it was not measured."""
        known = sorted((m.batch, m.peak_bytes) for m in self.profile.memory)
        if not known:
            return None
        (low, at_low), (high, at_high) = known[0], known[-1]
        slope = (at_high - at_low) / (high - low) if high > low else 0.0
        return int(at_low + max(0, batch - low) * max(slope, 0.0))

    def joules(self, ms: float) -> float | None:
        """Energy of computing for so long; None without a sensor."""
        return None if self.profile.watts is None else self.profile.watts * ms / 1e3
