"""Statistics of times, pure: summaries, thinning, and whether a sustained run was throttled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from elit_edge.bench.report import Bin, Sustained, Times

MOST_SAMPLES = 200
LEAST_FOR_P90, LEAST_FOR_P99 = 10, 100
LEAST_BINS = 8
THROTTLED = 1.1
"""Last quarter over first."""


def times_of(samples_ms: Sequence[float]) -> Times:
    """The summary of passes in the order of time; all above 0."""
    return Times(
        n=len(samples_ms),
        min_ms=min(samples_ms),
        median_ms=float(np.median(samples_ms)),
        p90_ms=quantile(samples_ms, 0.9, LEAST_FOR_P90),
        p99_ms=quantile(samples_ms, 0.99, LEAST_FOR_P99),
        samples_ms=tuple(thinned(samples_ms)),
    )


def quantile(samples_ms: Sequence[float], share: float, least: int) -> float | None:
    """None with fewer samples than a quantile so far out needs."""
    return float(np.quantile(samples_ms, share)) if len(samples_ms) >= least else None


def thinned(samples_ms: Sequence[float]) -> list[float]:
    """At most 200, spread evenly over the time; rounded to microseconds but never to 0."""
    chosen = np.linspace(0, len(samples_ms) - 1, min(len(samples_ms), MOST_SAMPLES)).round().astype(int)
    return [max(round(samples_ms[index], 3), 0.001) for index in chosen]


def sustained_of(runtime: str, precision: str, latents: int, wanted_s: float, bins: Sequence[Bin]) -> Sustained:
    """A sustained run of one bin at least, and its verdict: quarters of the time that it really took."""
    first, last = _quarters(bins) if len(bins) >= LEAST_BINS else (None, None)
    return Sustained(
        runtime=runtime,
        precision=precision,
        latents=latents,
        wanted_s=wanted_s,
        bins=tuple(bins),
        first_quarter_ms=first,
        last_quarter_ms=last,
        throttled=None if first is None or last is None else last > THROTTLED * first,
    )


def _quarters(bins: Sequence[Bin]) -> tuple[float, float]:
    quarter = bins[-1].end_s / 4
    first = [each.median_ms for each in bins if each.end_s <= quarter] or [bins[0].median_ms]
    last = [each.median_ms for each in bins if each.start_s >= 3 * quarter] or [bins[-1].median_ms]
    return float(np.median(first)), float(np.median(last))
