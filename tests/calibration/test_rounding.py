"""Rounded weights: on the grid, near, and better where rows are known."""

from __future__ import annotations

import numpy as np
import pytest

from elit_edge.calibration.rounding import (
    BLOCK,
    INT4,
    INT8,
    SEVEN_BITS,
    Rounded,
    block_of,
    block_scales,
    channel_scales,
    compensated,
    nearest,
)

grids = pytest.mark.parametrize("grid", [INT8, SEVEN_BITS, INT4], ids=["int8", "seven-bits", "int4"])


def matrix(inputs, outputs=24, seed=0):
    return np.random.default_rng(seed).normal(size=(inputs, outputs)).astype(np.float32)


def correlated(count, inputs, seed=1):
    """Rows whose channels follow a few directions, as activations do."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, inputs // 4)) @ rng.normal(size=(inputs // 4, inputs))
    return (mixed + 0.1 * rng.normal(size=(count, inputs))).astype(np.float32)


def error(rounded: Rounded, weight, rows):
    return np.square(rows @ rounded.floats() - rows @ weight).sum() / np.square(rows @ weight).sum()


def scales_for(weight, grid):
    return block_scales(weight, grid) if grid == INT4 else channel_scales(weight, grid)


@grids
def test_nearest_is_a_division_and_a_rounding(grid):
    weight = matrix(48)
    scales = np.abs(weight).max(0) / grid.greatest
    found = nearest(weight, scales[None], grid)
    wanted = np.clip(np.rint(weight / scales), grid.least, grid.greatest)
    np.testing.assert_array_equal(found.values, wanted)
    np.testing.assert_allclose(found.floats(), wanted * scales, rtol=1e-6)
    assert np.abs(found.floats() - weight).max() <= 0.5001 * scales.max()


@grids
def test_the_greatest_weight_of_each_output_is_the_greatest_integer(grid):
    weight = matrix(48) * np.geomspace(1e-3, 1e3, 24, dtype=np.float32)
    found = nearest(weight, channel_scales(weight, grid), grid)
    assert found.scales.shape == (1, 24)
    np.testing.assert_array_equal(np.abs(found.values.astype(int)).max(0), grid.greatest)


def test_two_products_of_an_unsigned_byte_and_seven_bits_fit_sixteen():
    assert 2 * 255 * max(-SEVEN_BITS.least, SEVEN_BITS.greatest) <= np.iinfo(np.int16).max
    assert 2 * 255 * INT8.greatest > np.iinfo(np.int16).max  # why eight bits may not enter such a product


@grids
@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_no_integer_leaves_the_grid(grid, scale):
    """Even with scales that are far too fine, and rows that push weights out."""
    weight = matrix(64)
    scales = np.float32(scale) * scales_for(weight, grid)
    for found in (nearest(weight, scales, grid), compensated(weight, correlated(300, 64), scales, grid)):
        assert found.values.dtype == np.int8
        assert found.values.min() >= grid.least
        assert found.values.max() <= grid.greatest


@grids
@pytest.mark.parametrize(
    ("inputs", "count"), [(48, 400), (48, 7), (192, 1000), (300, 600)], ids=["48", "few-rows", "two-parts", "three"]
)
def test_compensated_is_clearly_better_on_its_own_rows(grid, inputs, count):
    weight, rows = matrix(inputs), correlated(count, inputs)
    scales = scales_for(weight, grid)
    assert error(compensated(weight, rows, scales, grid), weight, rows) < 0.5 * error(
        nearest(weight, scales, grid), weight, rows
    )


def test_what_was_gained_holds_on_other_rows_of_the_same_kind():
    weight, rows = matrix(96), correlated(1200, 96)
    scales = block_scales(weight, INT4)
    found = compensated(weight, rows[:800], scales, INT4)
    assert error(found, weight, rows[800:]) < 0.6 * error(nearest(weight, scales, INT4), weight, rows[800:])


@pytest.mark.parametrize("seed", range(4))
def test_on_rows_without_correlation_it_is_never_much_worse(seed):
    weight = matrix(64, seed=seed)
    rows = np.random.default_rng(seed + 100).normal(size=(2000, 64)).astype(np.float32)
    scales = channel_scales(weight, INT4)
    assert error(compensated(weight, rows, scales, INT4), weight, rows) < 1.02 * error(
        nearest(weight, scales, INT4), weight, rows
    )


@grids
def test_weights_on_the_grid_stay_as_they_are(grid):
    rng = np.random.default_rng(3)
    values = rng.integers(grid.least, grid.greatest + 1, (64, 8)).astype(np.float32)
    values[0] = grid.greatest
    scales = np.full((1, 8), 0.25, np.float32)
    found = compensated(values * scales, correlated(100, 64), scales, grid)
    np.testing.assert_array_equal(found.values, values)


def test_rows_of_zeros_leave_the_nearest():
    weight = matrix(48)
    scales = channel_scales(weight, INT8)
    found = compensated(weight, np.zeros((20, 48), np.float32), scales, INT8)
    np.testing.assert_array_equal(found.values, nearest(weight, scales, INT8).values)


def test_channels_that_are_never_used_are_rounded_to_the_nearest():
    weight, rows = matrix(64), correlated(300, 64)
    rows[:, 10:20] = 0
    scales = channel_scales(weight, INT4)
    found, plain = compensated(weight, rows, scales, INT4), nearest(weight, scales, INT4)
    np.testing.assert_array_equal(found.values[10:20], plain.values[10:20])
    assert error(found, weight, rows) < 0.5 * error(plain, weight, rows)


def test_what_is_gained_does_not_depend_on_the_unit_of_the_rows():
    weight, rows = matrix(64), correlated(300, 64)
    rows[:, 32:] = 0
    scales = channel_scales(weight, INT4)
    found = [error(compensated(weight, rows * unit, scales, INT4), weight, rows) for unit in np.float32([1e-3, 1, 1e3])]
    assert max(found) < 1.05 * min(found)


def test_outputs_of_zeros_are_zeros():
    weight = matrix(48)
    weight[:, 5] = 0
    rows = correlated(100, 48)
    for scales in (channel_scales(weight, INT4), block_scales(weight, INT4)):
        assert (scales > 0).all()
        for found in (nearest(weight, scales, INT4), compensated(weight, rows, scales, INT4)):
            assert not found.floats()[:, 5].any()
            assert np.isfinite(found.floats()).all()


def test_each_block_has_its_own_scale():
    weight = matrix(128, 3)
    weight[64:] *= 100
    found = nearest(weight, block_scales(weight, INT4), INT4)
    assert found.scales.shape == (2, 3)
    for half in (slice(64), slice(64, None)):
        assert np.square(found.floats()[half] - weight[half]).sum() < 0.02 * np.square(weight[half]).sum()


def test_block_scales_are_never_worse_than_the_greatest_weight():
    weight = np.random.default_rng(0).standard_t(3, (256, 16)).astype(np.float32)
    blocks = weight.reshape(4, 64, 16)
    plain = np.abs(blocks).max(1) / INT4.greatest
    ours, others = (
        np.square(nearest(weight, s, INT4).floats() - weight).sum() for s in (block_scales(weight, INT4), plain)
    )
    assert ours < 0.95 * others


@pytest.mark.parametrize(("inputs", "block"), [(1152, 64), (64, 64), (48, 16), (96, 32), (4608, 64), (12, 4), (7, 1)])
def test_blocks_divide_the_inputs(inputs, block):
    assert block_of(inputs) == block
    assert inputs % block == 0
    assert block <= BLOCK
