"""Operators whose values coremltools infers not, or not as its reference says: against numpy written here."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from export.mil.tools import computed
from hypothesis import given, settings
from hypothesis import strategies as st


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def correlate(x, weight, bias, strides, pads, dilations, groups):
    """A convolution of two axes, place by place, in float64."""
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    kernel = weight.shape[2:]
    sizes = [(x.shape[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in (0, 1)]
    out = np.zeros((x.shape[0], weight.shape[0], *sizes)) + bias[:, None, None]
    each_in, each_out = weight.shape[1], weight.shape[0] // groups
    for channel in range(weight.shape[0]):
        first = channel // each_out * each_in
        for row, column in itertools.product(*map(range, kernel)):
            part = x[:, first : first + each_in, row * dilations[0] :, column * dilations[1] :]
            part = part[:, :, : (sizes[0] - 1) * strides[0] + 1 : strides[0]]
            part = part[:, :, :, : (sizes[1] - 1) * strides[1] + 1 : strides[1]]
            out[:, channel] += np.einsum("bcij,c->bij", part, weight[channel, :, row, column])
    return out


CONVOLUTIONS = {
    "1x1": ((2, 6, 3, 4), (5, 6, 1, 1), {}, ((0, 0), (0, 0))),
    "patches": ((1, 3, 8, 8), (7, 3, 2, 2), {"strides": [2, 2]}, ((0, 0), (0, 0))),
    "groups": ((1, 6, 5, 5), (4, 3, 3, 3), {"groups": 2}, ((0, 0), (0, 0))),
    "by channel": ((1, 4, 5, 5), (4, 1, 3, 3), {"groups": 4, "dilations": [2, 1]}, ((0, 0), (0, 0))),
    "custom": (
        (1, 2, 5, 6),
        (3, 2, 3, 2),
        {"pad_type": "custom", "pad": [1, 0, 2, 1], "strides": [1, 2]},
        ((1, 0), (2, 1)),
    ),
    "pads that valid ignores": ((1, 2, 5, 6), (3, 2, 3, 3), {"pad": [1, 1, 1, 1]}, ((0, 0), (0, 0))),
    "same": ((1, 2, 5, 6), (3, 2, 3, 3), {"pad_type": "same"}, ((1, 1), (1, 1))),
    "same, an odd rest": ((1, 2, 5, 6), (3, 2, 2, 4), {"pad_type": "same"}, ((0, 1), (1, 2))),
    "same in front": ((1, 2, 5, 6), (3, 2, 2, 4), {"pad_type": "same_lower"}, ((1, 0), (2, 1))),
    "same in steps": ((1, 2, 5, 6), (3, 2, 3, 3), {"pad_type": "same", "strides": [2, 2]}, ((1, 1), (0, 1))),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case):
    shape, weights, settings_, pads = CONVOLUTIONS[case]
    x, weight, bias = numbers(*shape), numbers(*weights, seed=1), numbers(weights[0], seed=2)
    found = computed("conv", x=x, weight=weight, bias=bias, **settings_)
    ones = [1, 1]
    wanted = correlate(
        x,
        weight,
        bias,
        settings_.get("strides", ones),
        pads,
        settings_.get("dilations", ones),
        settings_.get("groups", 1),
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_convolution_of_one_axis_is_that_of_two_with_one_row():
    x, weight = numbers(2, 3, 9), numbers(4, 3, 3, seed=1)
    found = computed("conv", x=x, weight=weight, strides=[2], pad_type="custom", pad=[1, 0])
    wide = correlate(x[:, :, None], weight[:, :, None], np.zeros(4), [1, 2], ((0, 0), (1, 0)), [1, 1], 1)
    np.testing.assert_allclose(found, wide[:, :, 0], rtol=1e-5, atol=1e-5)


def test_a_pad_that_conv_has_not_is_refused():
    with pytest.raises(ValueError, match="mirror"):
        computed("conv", x=numbers(1, 2, 3, 3), weight=numbers(2, 2, 1, 1), pad_type="mirror")


def test_silu():
    x = numbers(3, 4)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(computed("silu", x=x), wide / (1 + np.exp(-wide)), rtol=1e-6, atol=1e-7)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(factor=st.integers(1, 3), channels=st.integers(1, 3), height=st.integers(1, 3), width=st.integers(1, 3))
def test_pixels_are_shuffled_row_by_row_of_each_channel(factor, channels, height, width):
    x = numbers(2, channels * factor * factor, height, width)
    found = computed("pixel_shuffle", x=x, upscale_factor=factor)
    for c, i, j, h, w in itertools.product(*map(range, (channels, factor, factor, height, width))):
        depth = (c * factor + i) * factor + j
        np.testing.assert_array_equal(found[:, c, h * factor + i, w * factor + j], x[:, depth, h, w])
    np.testing.assert_array_equal(computed("pixel_unshuffle", x=found, downscale_factor=factor), x)


def test_concat_in_turns_as_the_reference_shows_it():
    first, second = np.array([[1, 2], [3, 4], [5, 6]], np.int32), np.array([[7, 8], [9, 10], [11, 12]], np.int32)
    found = computed("concat", values=[first, second], axis=0, interleave=True)
    np.testing.assert_array_equal(found, [[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]])


def test_squeeze_leaves_a_long_axis_as_the_reference_says():
    assert computed("squeeze", x=numbers(1, 3, 4), axes=[0, 1]).shape == (3, 4)


def test_a_split_into_unequal_parts_is_refused():
    with pytest.raises(ValueError, match="5 places"):
        computed("split", x=numbers(5), axis=0, num_splits=2)


def test_dequantize():
    levels = np.array([[-128, 0], [5, 127]], np.int8)
    by_row = computed(
        "dequantize",
        input=levels,
        scale=np.array([0.5, 2], np.float32),
        zero_point=np.array([1, -1], np.int8),
        axis=0,
    )
    np.testing.assert_array_equal(by_row, [[-64.5, -0.5], [12, 256]])
    np.testing.assert_array_equal(computed("dequantize", input=levels, scale=np.float32(0.5)), levels / 2)


def test_a_vector_of_scales_without_an_axis_is_refused():
    with pytest.raises(ValueError, match="axis"):
        computed("dequantize", input=np.zeros((2, 2), np.int8), scale=np.ones(2, np.float32))
