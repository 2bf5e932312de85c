"""How much each layer harms the velocity when it alone is quantized, and which layers to leave in floating point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elit_edge.calibration.record import Sensitivity
from elit_edge.calibration.rounding import Rounded
from elit_edge.calibration.search import Choice, rounded_rows
from elit_edge.calibration.states import CalibrationSet
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.parity import EXACT_DB, psnr_db

STATES_A_BUDGET = 8
"""Evenly over a budget's strata."""


@dataclass(frozen=True)
class Simulated:
    """A layer as it will be: its rounded weight, and how its input is rounded; None where that stays as it is."""

    weight: Rounded
    choice: Choice | None

    def run(self, x: Tensor, bias: Tensor | None) -> Tensor:
        weight = torch.from_numpy(self.weight.floats())
        if self.choice is None:
            return F.linear(x, weight.T, bias)
        if self.choice.smoothing is not None:
            x = x / torch.from_numpy(self.choice.smoothing)
        return F.linear(rounded_rows(x, self.choice.bound), weight.T, bias)


@contextmanager
def simulated(model: DiffusionTransformer, layers: Mapping[str, Simulated]) -> Iterator[None]:
    """The model with these of its linear layers quantized, by name."""
    kept: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, layer in layers.items():
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        kept[name] = linear.forward

        def forward(x: Tensor, layer: Simulated = layer, bias: Tensor | None = linear.bias) -> Tensor:
            return layer.run(x, bias)

        linear.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for name in kept:
            del model.get_submodule(name).forward


def measure(
    model: DiffusionTransformer,
    layers: Mapping[str, Simulated],
    states: CalibrationSet,
    budgets: Sequence[int],
    report: Callable[[float], None],
) -> dict[str, tuple[Sensitivity, ...]]:
    """The velocity's worst PSNR at each budget with one layer quantized, for every layer.

    Args:
        model: in float32.
        layers: as they will be, by name.
        states: where the velocity is looked at: some of each budget.
        budgets: which.
        report: told the share done, 0..1.
    """
    picked = {latents: _picked(states, latents) for latents in budgets}
    exact = {latents: _velocity(model, states, rows, latents) for latents, rows in picked.items()}
    found: dict[str, tuple[Sensitivity, ...]] = {}
    for done, (name, layer) in enumerate(layers.items(), 1):
        with simulated(model, {name: layer}):
            found[name] = tuple(
                Sensitivity(latents=latents, psnr_db=_worst_db(_velocity(model, states, rows, latents), exact[latents]))
                for latents, rows in picked.items()
            )
        report(done / len(layers))
    return found


def joint_db(
    model: DiffusionTransformer, layers: Mapping[str, Simulated], states: CalibrationSet, budgets: Sequence[int]
) -> float:
    """The velocity's worst PSNR over the budgets with all of these layers quantized."""
    found = []
    for latents in budgets:
        rows = _picked(states, latents)
        exact = _velocity(model, states, rows, latents)
        with simulated(model, layers):
            found.append(_worst_db(_velocity(model, states, rows, latents), exact))
    return min(found)


def layers_to_leave(
    sensitivities: Mapping[str, Sequence[Sensitivity]], work: Mapping[str, int], target_db: float
) -> tuple[str, ...]:
    """Layers whose quantization costs more than the target allows: fewest multiply-adds for the most error first.

    Squared errors of single layers add up, as those of independent roundings do; the caller measures what came of it.

    Args:
        sensitivities: of each layer alone, by budget.
        work: multiply-adds of each layer.
        target_db: PSNR that the rest shall have at every budget.

    Returns:
        Names, in the order in which they were taken.
    """
    budgets = {each.latents for found in sensitivities.values() for each in found}
    errors = {
        name: {each.latents: 10 ** (-each.psnr_db / 10) for each in found} for name, found in sensitivities.items()
    }
    total_work = sum(work[name] for name in errors)
    left: list[str] = []
    while errors:
        sums = {latents: math.fsum(error[latents] for error in errors.values()) for latents in budgets}
        worst = max(sums, key=lambda latents: sums[latents])
        if sums[worst] <= 10 ** (-target_db / 10):
            break
        # a layer that alone is over what is allowed must go; among the rest the cheapest for its harm
        name = max(errors, key=lambda each: errors[each][worst] / (work[each] / total_work + 1 / len(work)))
        left.append(name)
        del errors[name]
    return tuple(left)


def _picked(states: CalibrationSet, latents: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    rows = np.flatnonzero(states.latents == latents)
    picked: np.ndarray[tuple[int], np.dtype[np.int64]] = rows[
        np.linspace(0, len(rows) - 1, min(STATES_A_BUDGET, len(rows))).round().astype(int)
    ]
    return picked


def _velocity(
    model: DiffusionTransformer, states: CalibrationSet, rows: np.ndarray[tuple[int], np.dtype[np.int64]], latents: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with torch.no_grad():
        x, t, y = (torch.from_numpy(values[rows]) for values in (states.x, states.t, states.y))
        v = model(x, t, y, latents)
    found: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = v.numpy()
    return found


def _worst_db(
    found: np.ndarray[tuple[int, ...], np.dtype[np.float32]], exact: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> float:
    worst = min(psnr_db(value, right) for value, right in zip(found, exact, strict=True))
    return round(min(worst, EXACT_DB), 2)
