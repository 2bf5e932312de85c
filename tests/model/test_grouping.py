"""Token order, against loops that place one token, one number at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elit_edge.model.grouping import from_groups, grid_positions, patchify, to_groups, unpatchify

squares_a_side, group_sides = st.integers(1, 4), st.integers(1, 4)
patch_sides, channel_counts, batches = st.integers(1, 3), st.integers(1, 4), st.integers(1, 2)
unhurried = settings(deadline=None, max_examples=60)


def numbered(*shape):
    """Every element is another number."""
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


def cells_in_group_order(grid, group):
    """Squares in raster order, and in raster order inside a square: (row, column) of each token."""
    for top in range(0, grid, group):
        for left in range(0, grid, group):
            for row in range(top, top + group):
                for column in range(left, left + group):
                    yield row, column


@unhurried
@given(squares_a_side, group_sides, batches)
def test_group_order_runs_square_by_square(squares, group, batch):
    grid = squares * group
    raster = numbered(batch, grid * grid, 2)
    by_hand = [raster[:, row * grid + column] for row, column in cells_in_group_order(grid, group)]
    assert torch.equal(to_groups(raster, group), torch.stack(by_hand, dim=1))


@unhurried
@given(squares_a_side, group_sides, batches)
def test_group_order_and_back_is_the_same_raster(squares, group, batch):
    raster = numbered(batch, (squares * group) ** 2, 3)
    assert torch.equal(from_groups(to_groups(raster, group), group), raster)
    assert torch.equal(to_groups(from_groups(raster, group), group), raster)


@pytest.mark.parametrize(("grid", "group"), [(16, 4), (32, 8)], ids=["256px", "512px"])
def test_groups_of_the_published_models_are_squares_in_raster_order(grid, group):
    rows = torch.arange(grid)[:, None].expand(grid, grid).reshape(1, -1, 1)
    columns = torch.arange(grid)[None].expand(grid, grid).reshape(1, -1, 1)
    squares = to_groups(torch.cat([rows, columns], dim=-1), group).reshape(16, group**2, 2)
    assert (squares // group).unique(dim=1).squeeze(1).tolist() == [
        [row, column] for row in range(4) for column in range(4)
    ]
    assert (squares[5] - squares[5, 0]).tolist() == [[i // group, i % group] for i in range(group**2)]


@unhurried
@given(squares_a_side, group_sides, patch_sides, channel_counts, batches)
def test_a_linear_layer_over_patches_is_the_convolution(squares, group, patch, channels, batch):
    grid = squares * group
    image = numbered(batch, channels, grid * patch, grid * patch).sin().double()
    kernel = numbered(5, channels, patch, patch).cos().double()
    convolved = torch.nn.functional.conv2d(image, kernel, stride=patch)
    tokens = patchify(image, patch, group) @ kernel.reshape(5, -1).T
    for number, (row, column) in enumerate(cells_in_group_order(grid, group)):
        torch.testing.assert_close(tokens[:, number], convolved[:, :, row, column], rtol=0, atol=1e-12)


@unhurried
@given(squares_a_side, group_sides, patch_sides, channel_counts)
def test_patches_are_laid_out_row_column_channel(squares, group, patch, channels):
    grid = squares * group
    patches = numbered(1, grid * grid, patch * patch * channels)
    image = unpatchify(patches, patch, group, channels)
    assert image.shape == (1, channels, grid * patch, grid * patch)
    for number, (row, column) in enumerate(cells_in_group_order(grid, group)):
        place = image[0, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        for index in range(patch * patch):
            stretch = patches[0, number, index * channels : (index + 1) * channels]
            assert torch.equal(place[:, index // patch, index % patch], stretch)


@unhurried
@given(squares_a_side, group_sides, patch_sides, channel_counts, batches)
def test_an_image_in_patches_and_back_is_the_same_image(squares, group, patch, channels, batch):
    """The channels of a patch stand first on the way in and last on the way out."""
    side = squares * group * patch
    image = numbered(batch, channels, side, side)
    patches = patchify(image, patch, group).unflatten(-1, (channels, patch * patch)).transpose(-1, -2).flatten(-2)
    assert torch.equal(unpatchify(patches, patch, group, channels), image)


@pytest.mark.parametrize(("width", "grid"), [(48, 8), (8, 3), (4, 1)])
def test_fixed_positions_are_sines_and_cosines_of_the_column_then_of_the_row(width, grid):
    quarter = width // 4
    positions = grid_positions(width, grid)
    assert positions.shape == (grid * grid, width)
    for number in range(grid * grid):
        row, column = divmod(number, grid)
        for channel in range(quarter):
            speed = 10_000 ** (-channel / quarter)
            by_hand = [wave(place * speed) for place in (column, row) for wave in (math.sin, math.cos)]
            assert positions[number, channel::quarter].tolist() == pytest.approx(by_hand, abs=1e-6)
