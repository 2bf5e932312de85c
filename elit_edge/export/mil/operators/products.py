"""Operators of MIL: sums of products, from a matrix to attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from elit_edge.export.mil.operators.table import Ints, Tensors, operator

CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
"""By the rank of the input."""


@operator("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] · weightᵀ + bias, weight [out, in]. Source: iOS15.linear, iOS17.linear."""
    return F.linear(x, weight, bias)


@operator("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """The product of the last two axes, which may be exchanged before; the others broadcast. Source: iOS15.linear."""
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


@operator("einsum")
def einsum(values: Tensors, equation: str) -> Tensor:
    """The sum that the equation names, of two tensors: "nchw,nwhu->nchu". Source: iOS15.linear."""
    return torch.einsum(equation, *values)


@operator("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(query · keyᵀ / sqrt(E) + mask) · value; of a bool mask the true places take part.

    query [B, ..., L, E], key [B, ..., S, E], value [B, ..., S, V]. Source: iOS18.transformers.
    """
    mask = attn_mask[None] if attn_mask is not None and attn_mask.ndim == 1 else attn_mask
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


@operator("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """A cross-correlation over one to three axes: x [N, in, ...], weight [out, in / groups, ...].

    "same" pads so that the output has ceil(size / stride) places, an odd pad's rest behind, "same_lower" in front.
    Source: iOS15.conv; for the amounts its `aggregated_pad`: the rule in the reference's text leaves out the stride.
    """
    spatial = x.ndim - 2
    strides, dilations = strides or (1,) * spatial, dilations or (1,) * spatial
    if pad_type in ("same", "same_lower"):
        totals = [
            max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
            for size, kernel, stride, dilation in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True)
        ]
        fronts = [(total + 1) // 2 if pad_type == "same_lower" else total // 2 for total in totals]
        pad = tuple(side for front, total in zip(fronts, totals, strict=True) for side in (front, total - front))
    elif pad_type == "valid":
        pad = None
    elif pad_type != "custom":
        raise ValueError(f"conv has no pad_type {pad_type!r}")
    if pad is not None and any(pad):
        # F.pad counts from the last axis
        x = F.pad(x, [side for axis in reversed(range(spatial)) for side in pad[2 * axis : 2 * axis + 2]])
    return CONVOLUTIONS[x.ndim](x, weight, bias, strides, 0, dilations, groups)
