"""A weight as a package stores it: plain, eight or four bits by scale, or indices into a table of values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elit_edge.errors import RuntimeUnavailable
from elit_edge.export.mil.library import coremltools
from elit_edge.export.to_coreml.recipe import Compression, Ios

Array = npt.NDArray[Any]

LEAST_SIZE = 4096
"""Smaller weights stay as they are: there is nothing to gain."""
BLOCK = 32
"""Inputs that share one scale in four bits."""
LUT_BITS = {"lut6": 6, "lut4": 4}
LUT_ROUNDS = 100
ROWS = 1024
PACKED = 1 << 20
"""Indices that are packed at once: so many fill whole bytes."""
BLOCKWISE = 18
"""The first iOS with constexpr_blockwise_shift_scale and the second form of constexpr_lut_to_dense."""


@dataclass(frozen=True)
class Stored:
    """A weight in the form in which a package keeps it; made once, and written into every function."""

    value: Array
    """The weight, the integers or the indices."""
    scale: Array | None = None
    """By which integers are multiplied: [out, 1], or [out, in / BLOCK]."""
    bits: int = 8
    """Of each integer."""
    table: Array | None = None
    """The values that indices stand for."""


def stored(weight: Array, compression: Compression | None, dtype: type[np.floating]) -> Stored:
    """Compress a weight [out, in] float32; what is small, or does not divide into blocks, stays in `dtype`."""
    if compression is None or weight.ndim != 2 or weight.size < LEAST_SIZE:
        return _plain(weight, dtype)
    if compression in ("int8", "w8a8"):
        return _scaled(weight, weight.shape[1], 8, dtype)
    if compression == "int4":
        return _scaled(weight, BLOCK, 4, dtype) if weight.shape[1] % BLOCK == 0 else _plain(weight, dtype)
    return _palettized(weight, LUT_BITS[compression], dtype)


def _plain(weight: Array, dtype: type[np.floating]) -> Stored:
    return Stored(weight.astype(dtype, copy=False))


def _rows(weight: Array) -> Iterator[slice]:
    """A part after the other: on the way numbers take eight bytes each, and one weight may be a third of a model."""
    return (slice(begin, begin + ROWS) for begin in range(0, len(weight), ROWS))


def _scaled(weight: Array, block: int, bits: int, dtype: type[np.floating]) -> Stored:
    """Symmetric integers with one scale for each output and block of inputs."""
    most = (1 << bits - 1) - 1
    integers = np.empty(weight.shape, np.int8)
    scales = np.empty((len(weight), weight.shape[1] // block), dtype)
    for rows in _rows(weight):
        blocks = weight[rows].reshape(-1, scales.shape[1], block).astype(np.float64)
        scale = (np.abs(blocks).max(axis=2, keepdims=True) / most).astype(dtype)
        scale[scale == 0] = 1
        rounded = np.clip(np.rint(blocks / scale.astype(np.float64)), -most, most)
        integers[rows], scales[rows] = rounded.reshape(-1, weight.shape[1]), scale[:, :, 0]
    return Stored(integers, scale=scales, bits=bits)


def _palettized(weight: Array, bits: int, dtype: type[np.floating]) -> Stored:
    """The 2^bits values that all weights together are nearest to. Equal numbers are counted and clustered once."""
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise RuntimeUnavailable(
            "--compress lut6 and lut4 need scikit-learn to find their values; pip install 'elit-edge[coreml]'"
        ) from error
    codes = (weight.astype(np.float16) + np.float16(0)).view(np.uint16)  # one zero, without a sign
    counts = np.zeros(1 << 16, np.int64)
    for rows in _rows(codes):
        counts += np.bincount(codes[rows].reshape(-1), minlength=len(counts))
    (present,) = counts.nonzero()
    exact = present.astype(np.uint16).view(np.float16).astype(np.float64)[:, None]
    found = KMeans(min(1 << bits, len(exact)), init="k-means++", n_init=1, max_iter=LUT_ROUNDS, random_state=0).fit(
        exact, sample_weight=counts[present]
    )
    centres = np.zeros(1 << bits)
    centres[: len(found.cluster_centers_)] = found.cluster_centers_[:, 0]
    nearest = np.zeros(1 << 16, np.uint8)
    nearest[present] = found.labels_
    return Stored(nearest[codes].reshape(weight.shape), table=centres.astype(dtype))


def written(form: Stored, name: str, ios: Ios, trailing: int) -> Any:
    """The weight as a variable of the MIL function that is being written, with `trailing` axes of one at its end."""
    ct = coremltools()
    mb, types = ct.converters.mil.Builder, ct.converters.mil.mil.types
    value = form.value.reshape(form.value.shape + (1,) * trailing)
    if form.scale is not None:
        if ios < BLOCKWISE:
            return mb.constexpr_affine_dequantize(
                quantized_data=value, zero_point=np.int8(0), scale=form.scale[:, 0], axis=np.int32(0), name=name
            )
        kind = types.string_to_builtin(f"int{form.bits}")
        scale = form.scale.reshape(form.scale.shape + (1,) * trailing)
        return mb.constexpr_blockwise_shift_scale(
            data=value.view(types.nptype_from_builtin(kind)), scale=scale, name=name
        )
    if form.table is not None:
        bits = int(np.log2(len(form.table)))
        if ios < BLOCKWISE:
            return mb.constexpr_lut_to_dense(
                indices=_packed(form.value, bits), lut=form.table, shape=np.array(value.shape, np.uint32), name=name
            )
        kind = types.string_to_builtin(f"uint{bits}")
        table = form.table.reshape((1,) * value.ndim + (-1, 1))
        return mb.constexpr_lut_to_dense(indices=value.view(types.nptype_from_builtin(kind)), lut=table, name=name)
    return mb.const(val=value, name=name)


def _packed(indices: Array, bits: int) -> Array:
    """Indices one after another, the lowest bit of each first: uint8."""
    flat = indices.reshape(-1, 1)
    parts = []
    for begin in range(0, len(flat), PACKED):
        spread = np.unpackbits(flat[begin : begin + PACKED], axis=1, bitorder="little")[:, :bits]
        parts.append(np.packbits(spread.reshape(-1), bitorder="little"))
    return np.concatenate(parts)
