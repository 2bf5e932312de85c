"""All that depends on time and label, as a MIL function: lookup and adaLN stay out of the velocity's graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from elit_edge.export.to_coreml.weights import Float, Weights
from elit_edge.export.to_coreml.writer import Writer
from elit_edge.model.layers import time_frequencies


def write_condition(weights: Weights, t: Any, y: Any, dtype: Float, given: Float) -> Any:
    """t [B] float32 in [0, 1], y [B] int32 -> the modulations [B, M] of every layer, computed in `dtype` and given as
    `given`. Angles are float32 always."""
    mb = Writer()
    angles = mb.mul(x=mb.expand_dims(x=t, axes=[1]), y=time_frequencies().numpy()[None])
    waves = mb.concat(values=[mb.cos(x=angles), mb.sin(x=angles)], axis=1)
    if dtype is np.float16:
        waves = mb.cast(x=waves, dtype="fp16")

    def linear(x: Any, layer: str, name: str) -> Any:
        weight, bias = weights.matrix(f"{layer}.weight", dtype), weights.constant(f"{layer}.bias", dtype)
        return mb.linear(x=x, weight=weight, bias=bias, name=name)

    time = linear(mb.silu(x=linear(waves, "time.fc1", "time_fc1")), "time.fc2", "time_fc2")
    label = mb.gather(x=weights.constant("label.weight", dtype), indices=y, axis=0)
    c = mb.silu(x=mb.add(x=time, y=label))
    if dtype is given:
        return linear(c, "modulation", "modulations")
    return mb.cast(x=linear(c, "modulation", "modulations_wide"), dtype="fp16", name="modulations")
