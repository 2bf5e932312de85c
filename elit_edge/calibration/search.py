"""For each matrix product: how far to smooth and where to cut off, so that its worst budget loses least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elit_edge.calibration.observing import Observed
from elit_edge.calibration.ranges import LEVELS, OBSERVERS, histogram
from elit_edge.calibration.record import Observer
from elit_edge.calibration.rounding import SEVEN_BITS, channel_scales, nearest
from elit_edge.calibration.sites import Site
from elit_edge.calibration.smoothing import factors

ALPHAS = (None, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
ROWS_A_BUDGET = 256
WORTH_CLIPPING = 2.5
"""So many times must clipping lower a product's squared error below that of min-max: what is clipped errs one way in
every token, and does more harm behind the product than the sum of squares says (docs/calibration.md)."""
WORTH_A_PASS = 1.6
"""A smoothing that the graph has to multiply for must lower the squared error so many times."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """How one product is quantized."""

    site: Site
    observer: Observer
    alpha: float | None
    smoothing: FloatArray | None
    """s [inputs], None without smoothing."""
    folded: bool
    """The division by s is in weights before the site; otherwise the graph multiplies."""
    bound: float
    """Of the smoothed activation."""
    error: float
    """Of the product alone: squared, relative to the product, at its worst budget."""

    @property
    def scale(self) -> float:
        return self.bound / LEVELS


def choose(observed: Observed, weight: FloatArray, *, foldable: bool) -> Choice:
    """Try every smoothing with every observer on the rows that were kept.

    Args:
        observed: of the site.
        weight: [inputs, outputs].
        foldable: whether smoothing costs nothing here.
    """
    groups = [torch.from_numpy(_thinned(rows)) for rows in observed.by_budget().values()]
    exact = [rows @ torch.from_numpy(weight) for rows in groups]
    plain, *others = (_best(observed, weight, alpha, groups, exact, foldable) for alpha in ALPHAS)
    best = min(others, key=lambda choice: choice.error)
    worth = 1.0 if foldable else WORTH_A_PASS
    return best if best.error * worth < plain.error else plain


def _thinned(rows: FloatArray) -> FloatArray:
    picked = np.linspace(0, len(rows) - 1, min(ROWS_A_BUDGET, len(rows))).round().astype(int)
    thinned: FloatArray = rows[picked]
    return thinned


def _best(
    observed: Observed,
    weight: FloatArray,
    alpha: float | None,
    groups: list[Tensor],
    exact: list[Tensor],
    foldable: bool,
) -> Choice:
    """The observer that serves a smoothing best; min-max unless another is much better."""
    s = None if alpha is None else factors(observed.channel_max, weight, alpha)
    divisor = np.ones(len(weight), np.float32) if s is None else s
    smooth_weight = weight * divisor[:, None]
    rounded = torch.from_numpy(nearest(smooth_weight, channel_scales(smooth_weight, SEVEN_BITS), SEVEN_BITS).floats())
    smoothed = [rows / torch.from_numpy(divisor) for rows in groups]
    greatest = max(float((observed.channel_max / divisor).max()), float(np.finfo(np.float32).tiny))
    counts = sum(histogram(rows.abs().numpy(), greatest) for rows in smoothed)
    assert not isinstance(counts, int)
    found: list[Choice] = []
    tried: dict[float, float] = {}
    for observer, rule in OBSERVERS.items():
        bound = rule(counts, greatest)
        if bound not in tried:
            tried[bound] = max(
                _error(rounded_rows(rows, bound) @ rounded, right) for rows, right in zip(smoothed, exact, strict=True)
            )
        found.append(Choice(observed.site, observer, alpha, s, foldable, bound, tried[bound]))
    plain = next(choice for choice in found if choice.observer == "min-max")
    best = min(found, key=lambda choice: choice.error)
    return best if best.error * WORTH_CLIPPING < plain.error else plain


def rounded_rows(rows: Tensor, bound: float) -> Tensor:
    """Activations as the graph's QuantizeLinear and DequantizeLinear leave them."""
    step = bound / LEVELS
    return (rows / step).round().clamp(-LEVELS - 1, LEVELS) * step


def _error(found: Tensor, right: Tensor) -> float:
    return float((found - right).square().sum() / right.square().sum().clamp_min(1e-30))
