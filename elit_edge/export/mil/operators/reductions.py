"""Operators of MIL that reduce axes: without `axes` all of them, with `keep_dims` to length 1."""

from __future__ import annotations

import torch
from torch import Tensor

from elit_edge.export.mil.operators.table import Ints, operator


@operator("reduce_sum")
def reduce_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The sum. Source: iOS15.reduction."""
    return torch.sum(x, axes, keepdim=keep_dims, dtype=x.dtype)


@operator("reduce_mean")
def reduce_mean(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The mean. Source: iOS15.reduction."""
    return torch.mean(x, axes, keepdim=keep_dims)


@operator("reduce_max")
def reduce_max(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The greatest. Source: iOS15.reduction."""
    return torch.amax(x, () if axes is None else axes, keepdim=keep_dims)


@operator("reduce_sum_square")
def reduce_sum_square(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The sum of squares. Source: iOS15.reduction."""
    return torch.sum(x * x, axes, keepdim=keep_dims, dtype=x.dtype)


@operator("reduce_l2_norm")
def reduce_l2_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The root of the sum of squares; nothing is added under the root. Source: iOS15.reduction."""
    return torch.linalg.vector_norm(x, dim=axes, keepdim=keep_dims)
