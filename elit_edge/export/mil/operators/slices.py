"""Operators of MIL that take a part: slices and lookups."""

from __future__ import annotations

import torch
from torch import Tensor

from elit_edge.export.mil.operators.table import Bools, Ints, operator


@operator("slice_by_index")
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """x[begin:end:stride] on each axis, with numpy's reading of negative numbers and of steps backwards.

    Where a mask is true: begin_mask and end_mask leave that end open; squeeze_mask takes the place `begin` alone and
    drops its axis. Source: iOS15.tensor_transformation.
    """
    steps = stride or (1,) * x.ndim
    open_begin, open_end, single = (mask or (False,) * x.ndim for mask in (begin_mask, end_mask, squeeze_mask))
    for axis in reversed(range(x.ndim)):
        first = None if open_begin[axis] else begin[axis]
        if single[axis]:
            x = x.select(axis, first or 0)
            continue
        last = None if open_end[axis] else end[axis]
        start, stop, step = slice(first, last, steps[axis]).indices(x.shape[axis])
        if step > 0:
            x = x[(slice(None),) * axis + (slice(start, stop, step),)]
        else:
            x = x.index_select(axis, torch.arange(start, min(stop, start), step))
    return x


@operator("slice_by_size")
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """From `begin` on, `size` places of each axis; −1 is all that follow. Source: iOS15.tensor_transformation."""
    for axis, (first, length) in enumerate(zip(begin, size, strict=True)):
        start = first % x.shape[axis] if first < 0 else first
        x = x.narrow(axis, start, x.shape[axis] - start if length == -1 else length)
    return x


@operator("gather")
def gather(
    x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool | None = None
) -> Tensor:
    """The places `indices` of the axis; the first `batch_dims` axes of both go together.

    Up to iOS 16 a negative index counts from the end. From iOS 17 on, where there is `validate_indices`, an index
    outside is no index: Core ML's answer is undefined, so it is an error here, checked or not.
    Source: iOS15.scatter_gather, iOS16.scatter_gather, iOS17.scatter_gather.
    """
    axis %= x.ndim
    if batch_dims:
        pairs = zip(x, indices, strict=True)
        return torch.stack([gather(a, b, axis - 1, batch_dims - 1, validate_indices) for a, b in pairs])
    places = indices.reshape(-1).to(torch.int64)
    if validate_indices is None:
        places = torch.where(places < 0, places + x.shape[axis], places)
    return x.index_select(axis, places).reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])
