"""Differences between two sets of pictures from the same seeds, with 95% bootstrap intervals over pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from elit_edge.errors import RequestError
from elit_edge.evaluation.evaluating import interval
from elit_edge.evaluation.frechet import Features, frechet_distance
from elit_edge.verdict import Interval

RESAMPLES = 500
"""Of a Frechet distance: each takes the eigenvalues of three matrices of F x F."""


def mean(values: npt.NDArray[np.float64]) -> Interval:
    """The mean of [N] values, one a picture."""
    low, high = interval(values)
    return Interval(low=low, value=float(values.mean()), high=high)


def frechet_change(ours: Features, theirs: Features, reference: Features) -> Interval:
    """How much farther `ours` is from the reference than `theirs`: FD(ours) / FD(theirs) - 1.

    Pictures are drawn anew in pairs, and the reference's by themselves. A resample repeats pictures, which makes both
    distances larger and their ratio tamer, in favour of the worse set; so the resamples only say how far the logarithm
    of the ratio scatters, and the interval lies around the ratio that was found. In simulations of normal features (4
    to 32 of them, 64 to 256 pictures) it held the expected ratio 88% to 95% of the time; plain quantiles, 23% to 100%.

    Args:
        ours, theirs: [N, F], row i of both from the same seed.
        reference: [M, F], of other seeds.

    Raises:
        RequestError: the features do not tell the reference from `theirs`.
    """
    found = _log_ratio(ours, theirs, reference)
    rng = np.random.default_rng(0)
    logs = np.empty(RESAMPLES)
    for resample in range(RESAMPLES):
        rows, others = rng.integers(len(ours), size=len(ours)), rng.integers(len(reference), size=len(reference))
        logs[resample] = _log_ratio(ours[rows], theirs[rows], reference[others])
    low, high = found - logs.mean() + np.quantile(logs, (0.025, 0.975))
    return Interval(low=float(np.expm1(low)), value=float(np.expm1(found)), high=float(np.expm1(high)))


def _log_ratio(ours: Features, theirs: Features, reference: Features) -> float:
    distances = frechet_distance(ours, reference), frechet_distance(theirs, reference)
    if min(distances) <= 0:
        raise RequestError("--features: the network makes the same features of all pictures; give another one")
    return float(np.log(distances[0] / distances[1]))
