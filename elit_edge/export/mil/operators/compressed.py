"""Operators of MIL that quantize and that unpack compressed weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from elit_edge.export.mil.element_types import element_type
from elit_edge.export.mil.operators.table import Ints, operator

PART, PART_ROWS = 1 << 16, 1024
"""Eights of packed indices, and rows of indices, that are looked up at once: on the way each takes eight bytes."""


@operator("quantize")
def quantize(
    input_: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """round(input / scale) + zero_point, halves to even, held in the type's range. Source: iOS17.quantization_ops."""
    target = element_type(output_dtype).computed
    assert target is not None
    levels = torch.round(input_ / _along(scale, input_, axis))
    if zero_point is not None:
        levels = levels + _along(zero_point, input_, axis)
    limits = torch.iinfo(target)
    return levels.clamp(limits.min, limits.max).to(target)


@operator("dequantize")
def dequantize(input_: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """scale · (input − zero_point). Source: iOS17.quantization_ops."""
    levels = input_.float()
    if zero_point is not None:
        levels = levels - _along(zero_point, input_, axis)
    return levels * _along(scale, input_, axis)


@operator("constexpr_affine_dequantize")
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """scale · (data − zero_point), each a number or a vector along the axis. Source: iOS16.constexpr_ops."""
    return dequantize(quantized_data, scale, zero_point, axis)


@operator("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale · (data − offset); scale and offset have the rank of data, and each of theirs serves a block of equal size.

    Source: iOS18.compression.
    """
    levels = data.float()
    if offset is not None:
        levels = levels - _spread(offset, data)
    return levels * _spread(scale, data)


@operator("constexpr_lut_to_dense")
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    """Indices into a table, looked up.

    iOS 16: `lut` [entries], `indices` bytes that hold log2(entries) bits a number, the least significant first, `shape`
    that of the output. iOS 18: `indices` [...], `lut` [..., entries, size]: before the last two it has the rank of the
    indices, one table a block of them; entries longer than 1 lie along `vector_axis`.
    Source: iOS16.constexpr_ops, iOS18.compression.
    """
    if shape is not None:
        bits = int(math.log2(lut.shape[0]))
        parts = [lut[_unpacked(part, bits)] for part in indices.split(bits * PART)]
        return torch.cat(parts)[: math.prod(shape)].reshape(shape)
    entries, size = lut.shape[-2:]
    table = torch.arange(math.prod(lut.shape[:-2])).reshape(lut.shape[:-2])
    tables, places = lut.reshape(-1, entries, size), _spread(table, indices).expand(indices.shape)
    pairs = zip(places.split(PART_ROWS), indices.split(PART_ROWS), strict=True)
    found = torch.cat([tables[place, index.long()] for place, index in pairs])
    if vector_axis is None:
        return found.squeeze(-1)
    axis = vector_axis % indices.ndim
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


@operator("constexpr_cast")
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """A weight stored as float16, as float32. Source: iOS16.constexpr_ops."""
    if output_dtype not in ("fp32", "fp16"):
        raise ValueError(f"constexpr_cast to {output_dtype!r}")
    return source_val


def _along(parameter: Tensor, data: Tensor, axis: int | None) -> Tensor:
    """A vector parameter, so that it lies along the axis of the data; a single number as it is. As float32."""
    values = parameter.float()
    if values.ndim == 0:
        return values
    if axis is None:
        raise ValueError("a vector of scales has no axis")
    return values.reshape([-1 if place == axis % data.ndim else 1 for place in range(data.ndim)])


def _spread(parameter: Tensor, data: Tensor) -> Tensor:
    """Each element over its block of the data; an axis of one block is left to broadcasting."""
    for axis, (blocks, length) in enumerate(zip(parameter.shape, data.shape, strict=True)):
        if blocks > 1:
            parameter = parameter.repeat_interleave(length // blocks, axis)
    return parameter


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """The numbers of so many bits that bytes hold, the least significant bit first; int64."""
    stream = ((packed[:, None] >> torch.arange(8)) & 1).reshape(-1)
    numbers = stream[: len(stream) // bits * bits].reshape(-1, bits)
    return (numbers << torch.arange(bits)).sum(-1)
