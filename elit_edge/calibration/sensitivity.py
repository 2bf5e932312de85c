"""How much each layer harms the velocity when it alone is quantized, and which layers to leave in floating point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elit_edge.budget import flops
from elit_edge.calibration.record import Sensitivity
from elit_edge.calibration.rounding import Rounded
from elit_edge.calibration.search import Choice, rounded_rows
from elit_edge.calibration.states import CalibrationSet
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.parity import EXACT_DB, psnr_db
from elit_edge.runtimes.contract import FloatArray, IntArray

STATES_A_BUDGET = 8
"""Evenly over a budget's strata, where the work allows it."""
WORK_FLOPS = 1e14
"""Of all layers alone, together. A model so large that this is fewer states is looked at where it is extreme: at its
least and its full budget."""
MUCH_HARM, HARDLY_WORK = 0.2, 0.01
"""A layer that does so much of all harm, with so little of all work, is left in floating point in any case."""


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
    changed: dict[str, nn.Linear] = {}
    for name in layers:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear), name
        changed[name] = linear
    try:
        for name, linear in changed.items():
            linear.forward = partial(layers[name].run, bias=linear.bias)  # type: ignore[method-assign]
        yield
    finally:
        for linear in changed.values():
            del linear.forward


def measure(
    model: DiffusionTransformer,
    layers: Mapping[str, Simulated],
    states: CalibrationSet,
    report: Callable[[float], None],
) -> dict[str, tuple[Sensitivity, ...]]:
    """The velocity's worst PSNR at each budget with one layer quantized, for every layer.

    Args:
        model: in float32.
        layers: as they will be, by name.
        states: where the velocity is looked at: some of each budget.
        report: told the share done, 0..1.
    """
    picked = _picked(states, len(layers))
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


def joint_db(model: DiffusionTransformer, layers: Mapping[str, Simulated], states: CalibrationSet) -> float:
    """The velocity's worst PSNR over the budgets with all of these layers quantized."""
    found = []
    for latents, rows in _picked(states, len(layers)).items():
        exact = _velocity(model, states, rows, latents)
        with simulated(model, layers):
            found.append(_worst_db(_velocity(model, states, rows, latents), exact))
    return min(found)


def layers_to_leave(
    sensitivities: Mapping[str, Sequence[Sensitivity]], work: Mapping[str, int], target_db: float
) -> tuple[str, ...]:
    """Layers whose quantization costs more than it is worth, and more than the target allows.

    Those go first that do much of the harm for hardly any of the work; then, while the target is missed, whoever has
    the most error for the fewest multiply-adds.

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
    allowed = 10 ** (-target_db / 10)
    left = _cheap(errors, work)
    for name in left:
        del errors[name]
    while errors:
        sums = {latents: math.fsum(error[latents] for error in errors.values()) for latents in budgets}
        worst = max(sums, key=lambda latents: sums[latents])
        if sums[worst] <= allowed:
            break
        # a layer that alone is over what is allowed must go; otherwise the cheapest for its harm
        alone = [name for name, error in errors.items() if error[worst] > allowed]
        name = max(alone or errors, key=lambda each: errors[each][worst] / (work[each] / total_work + 1 / len(work)))
        left.append(name)
        del errors[name]
    return tuple(left)


def _cheap(errors: Mapping[str, Mapping[int, float]], work: Mapping[str, int]) -> list[str]:
    """Layers that do much of the harm, at any budget, for hardly any of the work."""
    total_work = sum(work[name] for name in errors)
    small = [name for name in errors if work[name] < HARDLY_WORK * total_work]
    budgets = {latents for error in errors.values() for latents in error}
    sums = {latents: math.fsum(error[latents] for error in errors.values()) for latents in budgets}
    return [name for name in small if any(errors[name][each] > MUCH_HARM * sums[each] for each in budgets)]


def _picked(states: CalibrationSet, layers: int) -> dict[int, IntArray]:
    """The rows of the set that are looked at, by budget."""
    config, budgets = states.recipe.model, states.recipe.budgets
    affordable = int(WORK_FLOPS / (layers * flops(config, config.latents_per_group).velocity))
    if affordable < 2 * len(budgets):
        budgets = tuple(dict.fromkeys((budgets[0], budgets[-1])))
    count = min(STATES_A_BUDGET, max(1, affordable // len(budgets)))
    found = {}
    for latents in budgets:
        rows = np.flatnonzero(states.latents == latents)
        found[latents] = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
    return found


def _velocity(model: DiffusionTransformer, states: CalibrationSet, rows: IntArray, latents: int) -> FloatArray:
    with torch.no_grad():
        x, t, y = (torch.from_numpy(values[rows]) for values in (states.x, states.t, states.y))
        v = model(x, t, y, latents)
    found: FloatArray = v.numpy()
    return found


def _worst_db(found: FloatArray, exact: FloatArray) -> float:
    worst = min(psnr_db(value, right) for value, right in zip(found, exact, strict=True))
    return round(min(max(worst, -EXACT_DB), EXACT_DB), 2)
