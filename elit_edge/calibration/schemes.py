"""What each scheme makes of a model's layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from elit_edge.calibration.observing import Observed
from elit_edge.calibration.record import Sensitivity
from elit_edge.calibration.rewriting import LayerPlan
from elit_edge.calibration.rounding import (
    INT4,
    INT8,
    SEVEN_BITS,
    Grid,
    Rounded,
    block_scales,
    channel_scales,
    compensated,
    nearest,
)
from elit_edge.calibration.search import Choice, choose, rounded_rows
from elit_edge.calibration.sensitivity import Simulated, joint_db, layers_to_leave, measure
from elit_edge.calibration.sites import Site
from elit_edge.calibration.smoothing import Scaling, folds, scalings
from elit_edge.calibration.states import CalibrationSet
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.parity import GATE_DB

HEADROOM_DB = 3.0
"""Above the gate, which other states and a chip's own rounding must hold too."""
NUDGE_DB = 0.5

FloatArray = npt.NDArray[np.float32]
Weights = Callable[[Site], FloatArray]
"""The weight of a site [inputs, outputs], read when asked for."""
Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Scheme:
    """The layers of one precision, and what smoothing does to the tensors around them."""

    plans: Mapping[str, LayerPlan]
    scalings: list[Scaling] = field(default_factory=list)
    sensitivities: Mapping[str, Sequence[Sensitivity]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What a scheme that needs a calibration set works from."""

    model: DiffusionTransformer
    states: CalibrationSet
    seen: Mapping[str, Observed]


def dynamic(sites: Sequence[Site], weight: Weights) -> Scheme:
    """Products in integers whose activations take their range as they come; conditions with weights in eight bits."""
    return Scheme(
        {
            site.name: LayerPlan(site, "int8-dynamic", _nearest(weight(site), SEVEN_BITS), 8)
            if site.role == "velocity"
            else _eight_bits(site, weight(site))
            for site in sites
        }
    )


def eight_bits(sites: Sequence[Site], weight: Weights) -> Scheme:
    """Every matrix in eight bits, a scale for each output; computed in float32."""
    return Scheme({site.name: _eight_bits(site, weight(site)) for site in sites})


def four_bits(sites: Sequence[Site], weight: Weights, evidence: Evidence, report: Report) -> Scheme:
    """Every matrix in four bits, a scale for each block, rounded for what enters it; computed in float32.

    Layers that would keep the velocity under the gate are stored in eight bits.
    """
    rounded: dict[str, Rounded] = {}
    for done, site in enumerate(sites):
        report("round", done / len(sites))
        matrix = weight(site)
        observed = evidence.seen[site.name]
        rows = np.concatenate(observed.rows) * observed.weights()[:, None]
        rounded[site.name] = compensated(matrix, rows, block_scales(matrix, INT4), INT4)
    layers = {name: Simulated(each, None) for name, each in rounded.items()}
    left, found = _left(layers, sites, "w4", evidence, report)
    return Scheme(
        {
            site.name: _eight_bits(site, weight(site))
            if site.name in left
            else LayerPlan(site, "w4", rounded[site.name], 4)
            for site in sites
        },
        sensitivities=found,
    )


def static(sites: Sequence[Site], weight: Weights, evidence: Evidence, report: Report) -> Scheme:
    """Products in integers with ranges taken ahead, smoothed, rounded for what enters them.

    Conditions, computed once a run, have weights in eight bits; so have the layers that would keep the velocity under
    the gate. Both compute in float32.
    """
    config = evidence.states.recipe.model
    ahead = [site for site in sites if site.role == "velocity"]
    layers: dict[str, Simulated] = {}
    for done, site in enumerate(ahead):
        report("search", done / len(ahead))
        observed, matrix = evidence.seen[site.name], weight(site)
        choice = choose(observed, matrix, foldable=folds(site, config))
        layers[site.name] = Simulated(_rounded_for(observed, matrix, choice), choice)
    left, found = _left(layers, ahead, "int8", evidence, report)
    plans: dict[str, LayerPlan] = {}
    moved: list[Scaling] = []
    for site in sites:
        layer = layers.get(site.name)
        if layer is None or layer.choice is None or site.name in left:
            plans[site.name] = _eight_bits(site, weight(site))
            continue
        plans[site.name] = LayerPlan(site, "int8", layer.weight, 8, layer.choice)
        if layer.choice.smoothing is not None and layer.choice.folded:
            moved += scalings(site, config, layer.choice.smoothing)
    return Scheme({name: _with_scaled_outputs(plan, moved) for name, plan in plans.items()}, moved, found)


def _left(
    layers: Mapping[str, Simulated], sites: Sequence[Site], precision: str, evidence: Evidence, report: Report
) -> tuple[tuple[str, ...], Mapping[str, Sequence[Sensitivity]]]:
    """The layers that have to stay out for the rest to hold the gate, and what each layer harms alone."""
    found = measure(evidence.model, layers, evidence.states, lambda share: report("sensitivity", share))
    work = {site.name: site.inputs * site.outputs for site in sites}
    wanted = GATE_DB[precision] + HEADROOM_DB
    target = wanted
    while True:
        left = layers_to_leave(found, work, target)
        rest = {name: layer for name, layer in layers.items() if name not in left}
        short = wanted - joint_db(evidence.model, rest, evidence.states) if rest else 0.0
        if short <= 0:
            return left, found
        target += short + NUDGE_DB


def _rounded_for(observed: Observed, matrix: FloatArray, choice: Choice) -> Rounded:
    """The smoothed weight, rounded for the rounded and smoothed rows that it will be multiplied by."""
    rows = np.concatenate(observed.rows)
    if choice.smoothing is not None:
        matrix, rows = matrix * choice.smoothing[:, None], rows / choice.smoothing
    entering = rounded_rows(torch.from_numpy(rows), choice.bound).numpy() * observed.weights()[:, None]
    return compensated(matrix, entering, channel_scales(matrix, SEVEN_BITS), SEVEN_BITS)


def _nearest(matrix: FloatArray, grid: Grid) -> Rounded:
    return nearest(matrix, channel_scales(matrix, grid), grid)


def _eight_bits(site: Site, matrix: FloatArray) -> LayerPlan:
    return LayerPlan(site, "w8", _nearest(matrix, INT8), 8)


def _with_scaled_outputs(plan: LayerPlan, moved: list[Scaling]) -> LayerPlan:
    """Outputs that the smoothing of a later layer multiplies: integers stay, scales follow. Inputs as the plan says."""
    site = plan.site
    scales = plan.weight.scales.copy()
    for scaling in moved:
        if scaling.tensor == site.weight and scaling.axis != site.input_axis:
            scales[:, scaling.start : scaling.start + len(scaling.factors)] *= scaling.factors
    return replace(plan, weight=Rounded(plan.weight.values, scales))
