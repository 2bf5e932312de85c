"""Operators of MIL that move numbers and change none: reshape, transpose, concat, tile, shuffle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from elit_edge.export.mil.operators.table import Ints, Tensors, operator


@operator("reshape")
def reshape(x: Tensor, shape: Ints) -> Tensor:
    """In row-major order; 0 keeps the length at its place, −1 is what is left. Source: iOS15.tensor_transformation."""
    return x.reshape([x.shape[place] if length == 0 else length for place, length in enumerate(shape)])


@operator("transpose")
def transpose(x: Tensor, perm: Ints) -> Tensor:
    """Axis i of the output is axis perm[i] of x. Source: iOS15.tensor_transformation."""
    return x.permute(perm)


@operator("expand_dims")
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    """Axes of length 1 at these places of the output. Source: iOS15.tensor_transformation."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze")
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Without these axes, or without all of length 1; a longer one stays. Source: iOS15.tensor_transformation."""
    return torch.squeeze(x) if axes is None else torch.squeeze(x, axes)


@operator("concat")
def concat(values: Tensors, axis: int, interleave: bool = False) -> Tensor:
    """One after the other along the axis, or in turns; numbers without axes make a vector.

    Source: iOS15.tensor_operation.
    """
    parts = [value.reshape(1) if value.ndim == 0 else value for value in values]
    if not interleave:
        return torch.cat(parts, axis)
    place = axis % parts[0].ndim
    return torch.stack(parts, place + 1).flatten(place, place + 1)


@operator("stack")
def stack(values: Tensors, axis: int) -> Tensor:
    """Along a new axis. Source: iOS15.tensor_operation."""
    return torch.stack(values, axis)


@operator("split")
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> tuple[Tensor, ...]:
    """Parts of these sizes along the axis, or as many equal ones. Source: iOS15.tensor_operation."""
    if split_sizes is not None:
        return torch.split(x, list(split_sizes), axis)
    if num_splits is None:
        raise ValueError("split has neither num_splits nor split_sizes")
    size, rest = divmod(x.shape[axis], num_splits)
    if rest:
        raise ValueError(f"{x.shape[axis]} places do not split into {num_splits} equal parts")
    return torch.split(x, size, axis)


@operator("tile")
def tile(x: Tensor, reps: Ints) -> Tensor:
    """The whole, repeated along each axis. Source: iOS15.tensor_operation."""
    return x.repeat(reps)


@operator("shape")
def shape(x: Tensor) -> Tensor:
    """The lengths of the axes, int32. Source: iOS15.tensor_operation."""
    return torch.tensor(x.shape, dtype=torch.int32)


@operator("pixel_shuffle")
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """[N, C · f², H, W] -> [N, C, H · f, W · f], as in PyTorch. Source: iOS15.tensor_transformation."""
    return F.pixel_shuffle(x, upscale_factor)


@operator("pixel_unshuffle")
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """[N, C, H · f, W · f] -> [N, C · f², H, W], as in PyTorch. Source: iOS16.tensor_transformation."""
    return F.pixel_unshuffle(x, downscale_factor)
