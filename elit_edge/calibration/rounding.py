"""Weights as integers: rounded to the nearest, or so that each column's rounding makes up for the ones before it.

Matrices stand as [inputs, outputs] here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """The integers that a weight may become."""

    least: int
    greatest: int


INT8 = Grid(-127, 127)
SEVEN_BITS = Grid(-63, 63)
"""For products in integers. x86 without VNNI adds two products of a weight and an unsigned byte in 16 bits that
saturate: 2 · 255 · 127 does not fit, 2 · 255 · 63 does. With eight bits ONNX Runtime and OpenVINO silently lose 10 to
15 dB there (docs/calibration.md)."""
INT4 = Grid(-8, 7)
BLOCK = 64
"""Inputs that share a scale in four bits; where it does not divide them, the largest power of two that does."""
DAMPING = 0.01
LEAST = 1e-30
"""Weights below it are none: their scale would be no normal number."""
LAZY = 128
"""Rows that are rounded before what is left of the matrix is brought up to date."""
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Parts of a block's greatest weight that are tried for its scale."""


@dataclass(frozen=True)
class Rounded:
    """A matrix as integers and scales."""

    values: npt.NDArray[np.int8]
    """[inputs, outputs]"""
    scales: FloatArray
    """[blocks of inputs, outputs]; one block: a scale for each output."""

    def floats(self) -> FloatArray:
        """[inputs, outputs] as the graph computes with them."""
        inputs, outputs = self.values.shape
        blocks = self.values.reshape(len(self.scales), -1, outputs).astype(np.float32) * self.scales[:, None]
        return blocks.reshape(inputs, outputs)


def nearest(weight: FloatArray, scales: FloatArray, grid: Grid) -> Rounded:
    """Each weight to the nearest number of its scale."""
    blocks = weight.reshape(len(scales), -1, weight.shape[1])
    values = np.clip(np.round(blocks / scales[:, None]), grid.least, grid.greatest)
    return Rounded(values.astype(np.int8).reshape(weight.shape), scales)


def compensated(weight: FloatArray, rows: FloatArray, scales: FloatArray, grid: Grid) -> Rounded:
    """Row after row to the nearest, and the rest of the matrix moved so that the product with `rows` changes least.

    Source: GPTQ, arXiv 2210.17323. The scales are fixed before, so that rows can go in the order of their weight in the
    product, the heaviest first.

    Args:
        weight: [inputs, outputs] float32.
        rows: what the matrix is multiplied by, [R, inputs], rounded if it is.
        scales: [blocks, outputs].
        grid: the integers.
    """
    inputs = len(weight)
    seen = torch.from_numpy(rows).double()
    hessian = seen.T @ seen
    mean = float(hessian.diagonal().mean()) or 1.0
    hessian.diagonal()[hessian.diagonal() == 0] = mean  # a channel that is never used
    hessian.diagonal().add_(DAMPING * mean)
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    factor = _inverse_factor(hessian[order][:, order])
    left = torch.from_numpy(weight)[order].double()
    steps = torch.from_numpy(scales)[order // (inputs // len(scales))].double()
    values = torch.empty_like(left)
    for first in range(0, inputs, LAZY):
        last = min(first + LAZY, inputs)
        errors = torch.empty(last - first, left.shape[1], dtype=torch.float64)
        for row in range(first, last):
            values[row] = (left[row] / steps[row]).round().clamp(grid.least, grid.greatest)
            errors[row - first] = (left[row] - values[row] * steps[row]) / factor[row, row]
            left[row:last] -= torch.outer(factor[row, row:last], errors[row - first])
        left[last:] -= factor[first:last, last:].T @ errors
    restored = torch.empty_like(values)
    restored[order] = values
    return Rounded(restored.to(torch.int8).numpy(), scales)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper Cholesky factor U of the inverse, U^T U, without the inverse: with H = R R^T and R upper, it is R^-1."""
    root = torch.linalg.cholesky(hessian.flip(0, 1)).flip(0, 1)
    unit = torch.eye(len(root), dtype=root.dtype)
    factor: Tensor = torch.linalg.solve_triangular(root, unit, upper=True)
    return factor


def channel_scales(weight: FloatArray, grid: Grid) -> FloatArray:
    """[1, outputs]: the greatest weight of each output is the greatest integer."""
    return _scales(np.abs(weight).max(0, keepdims=True), grid)


def block_scales(weight: FloatArray, grid: Grid) -> FloatArray:
    """[blocks, outputs]: of each block the part of its greatest weight that rounds it with the least squared error."""
    inputs, outputs = weight.shape
    blocks = weight.reshape(-1, block_of(inputs), outputs)
    greatest = np.abs(blocks).max(1)
    best = np.full(greatest.shape, np.inf, np.float32)
    scales: FloatArray = np.ones_like(greatest)
    for clip in CLIPS:
        tried = _scales(greatest * np.float32(clip), grid)
        rounded = np.clip(np.round(blocks / tried[:, None]), grid.least, grid.greatest) * tried[:, None]
        errors = np.square(rounded - blocks).sum(1)
        scales = np.where(errors < best, tried, scales)
        best = np.minimum(best, errors)
    return scales


def _scales(greatest: FloatArray, grid: Grid) -> FloatArray:
    scales: FloatArray = np.where(greatest > LEAST, greatest / grid.greatest, 1).astype(np.float32)
    return scales


def block_of(inputs: int) -> int:
    """Inputs that share a scale, of a matrix with so many."""
    block = BLOCK
    while inputs % block:
        block //= 2
    return block
