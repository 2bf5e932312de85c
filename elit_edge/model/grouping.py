"""Token order. The model keeps its tokens in group order from the first layer to the last.

Raster order runs over the H x W grid; group order runs over the g x g squares in raster order, and in raster order
inside a square. Blocks have no positions, so the order is free, and with the positions permuted once at load the
groups of Read and Write are plain reshapes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def patchify(x: Tensor, patch: int, group: int) -> Tensor:
    """[B, C, S, S] -> patches in group order [B, N, C · p · p], channels as a p x p convolution sees them."""
    batch, channels, side, _ = x.shape
    grid = side // patch
    x = x.reshape(batch, channels, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
    return to_groups(x.reshape(batch, grid * grid, channels * patch * patch), group)


def unpatchify(x: Tensor, patch: int, group: int, channels: int) -> Tensor:
    """Patches in group order [B, N, p · p · C] (row, column, channel) -> [B, C, S, S]."""
    batch, grid = x.shape[0], _side(x)
    x = from_groups(x, group).reshape(batch, grid, grid, patch, patch, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, grid * patch, grid * patch)


def to_groups(x: Tensor, group: int) -> Tensor:
    """Raster order -> group order over the second axis of [B, N, D]."""
    squares = _side(x) // group
    return _middle_swapped(x, (squares, group, squares, group))


def from_groups(x: Tensor, group: int) -> Tensor:
    """Group order -> raster order over the second axis of [B, N, D]."""
    squares = _side(x) // group
    return _middle_swapped(x, (squares, squares, group, group))


def _middle_swapped(x: Tensor, split: tuple[int, int, int, int]) -> Tensor:
    """[B, N, D] with N seen as four axes, the middle two of which change places."""
    batch, tokens, width = x.shape
    return x.reshape(batch, *split, width).permute(0, 1, 3, 2, 4, 5).reshape(batch, tokens, width)


def _side(x: Tensor) -> int:
    """Tokens a side of the square grid of [B, N, D]."""
    return round(x.shape[1] ** 0.5)


def grid_positions(width: int, grid: int) -> Tensor:
    """Fixed sine-cosine positions of a grid in raster order: [grid², width]; half the channels for each axis."""
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=-1)
    rows = axis[:, None].expand(-1, grid, -1)
    columns = axis[None].expand(grid, -1, -1)
    return torch.cat([columns, rows], dim=-1).reshape(grid * grid, -1).float()
