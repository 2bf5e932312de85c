"""Operators of MIL: activations, and the normalisations that learn a scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from elit_edge.export.mil.operators.table import Ints, operator


@operator("relu")
def relu(x: Tensor) -> Tensor:
    """max(x, 0). Source: iOS15.activation."""
    return torch.relu(x)


@operator("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^−x). Source: iOS15.activation."""
    return torch.sigmoid(x)


@operator("tanh")
def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent. Source: iOS15.elementwise_unary."""
    return torch.tanh(x)


@operator("silu")
def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x). Source: iOS15.activation."""
    return F.silu(x)


@operator("gelu")
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """By the error function, or by its approximation through tanh or through sigmoid(1.702 x).

    Source: iOS15.activation.
    """
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"gelu has no mode {mode!r}")


@operator("softmax")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """e^x over its sum along the axis. Source: iOS15.activation."""
    return torch.softmax(x, axis)


@operator("layer_norm")
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """gamma · (x − mean) / sqrt(variance + epsilon) + beta over the axes; gamma and beta have the axes' shape.

    The variance is the mean of squares, uncorrected; without axes, all are meant. Source: iOS15.normalization.
    """
    chosen = tuple(range(x.ndim)) if axes is None else tuple(sorted(axis % x.ndim for axis in axes))
    shape = [x.shape[axis] for axis in chosen]
    if chosen == tuple(range(x.ndim - len(chosen), x.ndim)):
        return F.layer_norm(x, shape, gamma, beta, epsilon)
    # not torch.var_mean, which takes eight times as long over an axis that is not the last
    centred = x - x.mean(chosen, keepdim=True)
    normed = centred * torch.rsqrt((centred * centred).mean(chosen, keepdim=True) + epsilon)
    spread = [x.shape[axis] if axis in chosen else 1 for axis in range(x.ndim)]
    if gamma is not None:
        normed = normed * gamma.reshape(spread)
    return normed if beta is None else normed + beta.reshape(spread)
