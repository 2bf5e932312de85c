"""Observers: where to cut off an activation so that its integers serve it best.

Each takes the histogram of magnitudes and gives a bound: values beyond it are clipped, values within it are rounded to
one of 2 · LEVELS + 1 evenly spaced numbers. A wide bound rounds coarsely, a narrow one clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from elit_edge.calibration.record import Observer

LEVELS = 127
"""Magnitudes of an activation in int8, symmetric."""
BINS = 2048
PERCENTILE = 99.99
LEAST_SHARE = 0.1
"""Narrowest bound that is tried, in parts of the greatest magnitude."""

Vector = npt.NDArray[np.float64]


def histogram(magnitudes: npt.NDArray[np.float32], greatest: float) -> Vector:
    """Counts of magnitudes in BINS even bins of 0..greatest."""
    counts, _ = np.histogram(magnitudes, BINS, (0.0, greatest))
    return counts.astype(np.float64)


def min_max(_counts: Vector, greatest: float) -> float:
    """The greatest magnitude: nothing is clipped."""
    return greatest


def percentile(counts: Vector, greatest: float) -> float:
    """The magnitude that PERCENTILE percent of the values stay below."""
    below = np.cumsum(counts)
    place = int(np.searchsorted(below, below[-1] * PERCENTILE / 100)) + 1
    return greatest * min(place, BINS) / BINS


def entropy(counts: Vector, greatest: float) -> float:
    """The bound whose rounded distribution is nearest to the clipped one, by Kullback-Leibler divergence.

    Source: the rule of TensorRT's calibrator (S. Migacz, 8-bit inference with TensorRT, GTC 2017).
    """
    best, bound = np.inf, greatest
    for kept in range(LEVELS + 1, BINS + 1, 16):
        clipped = counts[:kept].copy()
        clipped[-1] += counts[kept:].sum()
        occupied = counts[:kept] > 0
        edges = np.linspace(0, kept, LEVELS + 2).round().astype(int)[:-1]
        totals = np.add.reduceat(counts[:kept], edges)
        filled = np.add.reduceat(occupied.astype(np.float64), edges)
        level = np.repeat(
            np.divide(totals, filled, where=filled > 0, out=np.zeros_like(totals)), np.diff([*edges, kept])
        )
        divergence = _divergence(clipped, np.where(occupied, level, 0))
        if divergence < best:
            best, bound = divergence, greatest * kept / BINS
    return bound


def _divergence(wanted: Vector, given: Vector) -> float:
    """Of two histograms; a bin that is wanted and not given counts as one that holds hardly anything."""
    p, q = wanted / wanted.sum(), given / max(given.sum(), 1.0)
    there = p > 0
    return float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-9))).sum())


def mse(counts: Vector, greatest: float) -> float:
    """The bound with the least mean squared error of clipping and rounding."""
    centres = (np.arange(BINS) + 0.5) / BINS * greatest
    bounds = greatest * np.linspace(LEAST_SHARE, 1, 91)
    rounded = np.minimum(np.round(centres / (step := (bounds / LEVELS)[:, None])), LEVELS) * step
    errors = ((rounded - centres) ** 2 * counts).sum(1)
    return float(bounds[np.argmin(errors)])


OBSERVERS: Mapping[Observer, Callable[[Vector, float], float]] = {
    "min-max": min_max,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
"""By name: (histogram, greatest magnitude) -> bound, greater than 0."""
