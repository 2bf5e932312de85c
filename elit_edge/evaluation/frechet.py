"""The Frechet distance between two sets of features, each taken for a normal distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating[Any]]
Matrix = npt.NDArray[np.float64]


def frechet_distance(first: Features, second: Features) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the means and covariances of two sets.

    The square root is taken in its symmetric form, by eigenvalues: (C1^(1/2) C2 C1^(1/2))^(1/2) has the same trace.

    Args:
        first, second: [N, F] and [M, F], each of at least two rows; fewer rows than F + 1 make singular covariances,
            and a distance that says more of the number of rows than of the sets.

    Returns:
        The distance, squared as is the custom, at least 0, in units of the features squared.
    """
    (mean, covariance), (other_mean, other_covariance) = _moments(first), _moments(second)
    root = _root(covariance)
    cross = np.sqrt(_eigenvalues(root @ other_covariance @ root)).sum()
    spread = np.trace(covariance) + np.trace(other_covariance) - 2 * cross
    return float(max(np.square(mean - other_mean).sum() + spread, 0.0))


def _moments(features: Features) -> tuple[Matrix, Matrix]:
    rows = np.asarray(features, np.float64)
    mean: Matrix = rows.mean(0)
    offsets = rows - mean
    covariance: Matrix = offsets.T @ offsets / (len(rows) - 1)
    return mean, covariance


def _root(covariance: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(covariance)
    root: Matrix = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


def _eigenvalues(symmetric: Matrix) -> Matrix:
    """Rounding leaves small eigenvalues below 0, and the product not quite symmetric."""
    values: Matrix = np.linalg.eigvalsh((symmetric + symmetric.T) / 2).astype(np.float64)
    return np.maximum(values, 0)
