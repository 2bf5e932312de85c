"""A decoder's graph: z [batch, C, height, width] -> pixels [batch, 3, f·height, f·width], all but C and 3 free."""

from __future__ import annotations

from typing import Any, cast

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from elit_edge.export.onnx_graphs import Example, take_transposed_weights, trace_without_numbers
from elit_edge.export.quiet import quietly
from elit_edge.export.vae.source import VaeSource

LATENTS, PIXELS = "z", "pixels"
FREE = {0: "batch", 2: "height", 3: "width"}
EXAMPLE_SIZES = (2, 6, 8)
"""Of the free dimensions, all different."""


class _Decoding(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        return cast("Any", self.model).decode(z, return_dict=False)[0]


def trace_decoder(vae: VaeSource) -> ir.Model:
    """The graph, its weights as further inputs under their names in the VAE.

    Raises:
        ExportError: the tracer failed.
    """
    model = trace_without_numbers(lambda: _example(vae))
    take_transposed_weights(model)
    model.graph.name = "decoder"
    model.producer_name, model.producer_version = "elit-edge", None
    return model


def _example(vae: VaeSource) -> Example:
    batch, height, width = EXAMPLE_SIZES
    with quietly("diffusers"):
        module = cast("Any", type(vae.module)).from_config(cast("Any", vae.module).config)
    z = torch.zeros(batch, vae.latent_channels, height, width)
    free = {place: Dim(name) for place, name in FREE.items()}
    return Example(_Decoding(module).eval(), {LATENTS: z}, {LATENTS: free}, PIXELS)
