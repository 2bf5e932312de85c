"""Observers against what can be known without them: closed forms and numeric integration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from elit_edge.calibration.ranges import BINS, LEVELS, OBSERVERS, PERCENTILE, entropy, histogram, mse, percentile

every = pytest.mark.parametrize("name", list(OBSERVERS))


def bound(name, magnitudes):
    magnitudes = np.asarray(magnitudes, np.float32)
    greatest = float(magnitudes.max())
    return OBSERVERS[name](histogram(magnitudes, greatest), greatest)


def gaussian(count, seed=0):
    return np.abs(np.random.default_rng(seed).normal(size=count)).astype(np.float32)


def best_gaussian_clip():
    """By integration: the squared error of rounding to ±LEVELS steps of clip / LEVELS, and of what is clipped."""
    x = np.linspace(0, 9, 400_001)
    density = np.exp(-(x**2) / 2)

    def error(clip):
        step = clip / LEVELS
        rounded = np.minimum(np.round(x / step), LEVELS) * step
        return ((x - rounded) ** 2 * density).sum()

    clips = np.linspace(3.2, 5, 181)
    return clips[np.argmin([error(clip) for clip in clips])]


def test_the_mse_bound_of_a_gaussian_is_where_integration_has_its_least_error():
    wanted = best_gaussian_clip()
    assert 3.85 < wanted < 4.1  # what the literature gives for 8 bits
    assert bound("mse", gaussian(1_000_000)) == pytest.approx(wanted, abs=0.15)


def test_the_percentile_of_a_gaussian_is_its_quantile():
    quantile = math.sqrt(2) * inverse_error_function(PERCENTILE / 100)
    assert bound("percentile", gaussian(1_000_000)) == pytest.approx(quantile, abs=0.08)


def inverse_error_function(p):
    low, high = 0.0, 6.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < p else (low, middle)
    return low


@every
def test_even_values_are_not_clipped(name):
    assert bound(name, np.linspace(0, 3, 200_000)) == pytest.approx(3, rel=2e-3)


def test_one_outlier_is_cut_off_where_it_costs_less_than_the_rest():
    """A million values and one that is ten times as far out: clipping costs (40 - c)² once, not clipping c² / 12 / 127²
    times a million."""
    values = np.append(gaussian(1_000_000), 40)
    assert bound("min-max", values) == 40
    for name in ("percentile", "entropy", "mse"):
        assert 3 < bound(name, values) < 8, name


def test_many_values_far_out_are_kept_by_the_squared_error():
    values = np.append(gaussian(10_000), np.full(500, 40))
    assert bound("mse", values) == pytest.approx(40, rel=0.02)
    assert bound("percentile", values) == 40


@every
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1, 1e6, 1e30])
def test_bounds_lie_within_the_greatest_and_follow_the_unit(name, scale):
    values = gaussian(20_000) * np.float32(scale)
    found = bound(name, values)
    assert 0 < found <= values.max()
    assert found == pytest.approx(scale * bound(name, gaussian(20_000)), rel=1e-2)


@every
@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0, 1.0], [1.0] * 100, [1e-7] * 50 + [1.0]],
    ids=["single", "zero-and-one", "constant", "nearly-zero"],
)
def test_bounds_of_few_values_are_sound(name, values):
    assert 0 < bound(name, values) <= 1


@every
def test_constant_zero_gives_a_bound_that_can_be_divided_by(name):
    """The caller gives the least number above zero for the greatest."""
    tiny = float(np.finfo(np.float32).tiny)
    found = OBSERVERS[name](histogram(np.zeros(100, np.float32), tiny), tiny)
    assert 0 < found <= tiny
    assert np.float32(found / LEVELS) > 0


def test_the_value_at_the_greatest_is_counted():
    counts = histogram(np.array([0, 0.5, 1], np.float32), 1.0)
    assert counts.shape == (BINS,)
    assert counts.sum() == 3
    assert counts[-1] == 1


@pytest.mark.parametrize("rule", [percentile, entropy, mse])
def test_farther_tails_give_no_narrower_bound(rule):
    """Monotone: the same body with more and more values at the far end."""
    body, found = gaussian(50_000), []
    for far in (0, 5, 50, 500, 5000):
        values = np.append(np.append(body, np.full(far, 20, np.float32)), 20).astype(np.float32)
        found.append(rule(histogram(values, 20.0), 20.0))
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_the_mse_bound_is_the_best_of_all_that_could_be_tried():
    """Against the values themselves, not their histogram."""
    rng = np.random.default_rng(5)
    for values in (gaussian(30_000), rng.laplace(size=30_000), rng.standard_t(4, 30_000), rng.uniform(-1, 1, 30_000)):
        x = np.abs(values).astype(np.float64)

        def error(clip, x=x):
            step = clip / LEVELS
            return ((x - np.minimum(np.round(x / step), LEVELS) * step) ** 2).mean()

        best = min(error(clip) for clip in x.max() * np.linspace(0.05, 1, 200))
        assert error(bound("mse", x)) < 1.05 * best
