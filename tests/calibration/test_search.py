"""The search for one product: better than min-max where that is bad, honest about its error, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from elit_edge.calibration import search
from elit_edge.calibration.observing import Observed
from elit_edge.calibration.ranges import LEVELS
from elit_edge.calibration.rounding import SEVEN_BITS
from elit_edge.calibration.search import WORTH_A_PASS, choose
from elit_edge.calibration.sites import Site

INPUTS, OUTPUTS = 64, 32


def weight_of(seed=0):
    return np.random.default_rng(seed).normal(size=(INPUTS, OUTPUTS)).astype(np.float32)


def rows_of(count=200, seed=1):
    return np.random.default_rng(seed).normal(size=(count, INPUTS)).astype(np.float32)


def observed_of(**by_budget):
    site = Site("layer", "velocity", "node", "x", "layer.weight_t", INPUTS, OUTPUTS)
    rows = list(by_budget.values())
    channel_max = np.abs(np.concatenate(rows)).max(0)
    return Observed(site, channel_max, rows=rows, latents=[int(name.removeprefix("j")) for name in by_budget])


def product_error(rows, weight, s, bound):
    """Of one product in integers, by numpy alone."""
    smooth = weight * s[:, None]
    steps = np.abs(smooth).max(0) / SEVEN_BITS.greatest
    step = np.float32(bound / LEVELS)
    entering = np.clip(np.rint(rows / s / step), -128, 127) * step
    found, right = entering @ (np.rint(smooth / steps) * steps), rows @ weight
    return np.square(found - right).sum() / np.square(right).sum()


def test_outliers_are_cut_off_where_min_max_would_round_all_the_rest_away():
    """One value of one row, in a channel that hardly matters."""
    rows = rows_of()
    rows[7, 3] = 300
    weight = weight_of()
    weight[3] *= 1e-3
    observed = observed_of(j1=rows)
    found = choose(observed, weight, foldable=True)
    plain = product_error(rows, weight, np.ones(INPUTS, np.float32), 300)
    assert found.error < 0.01 * plain


def test_wide_channels_are_smoothed():
    rows = rows_of()
    rows[:, :4] *= 60
    found = choose(observed_of(j1=rows), weight_of(), foldable=True)
    assert found.alpha is not None
    assert found.folded or found.smoothing is not None
    assert found.smoothing[:4].min() > 3 * found.smoothing[4:].max()
    unsmoothed = product_error(rows, weight_of(), np.ones(INPUTS, np.float32), np.abs(rows).max())
    assert found.error < 0.5 * unsmoothed


@pytest.mark.parametrize("foldable", [True, False])
def test_the_error_is_that_of_the_worst_budget(foldable):
    wide, narrow = rows_of(150), 0.02 * rows_of(150, seed=2)
    wide[:, :4] *= 30
    weight = weight_of()
    found = choose(observed_of(j1=narrow, j16=wide), weight, foldable=foldable)
    s = np.ones(INPUTS, np.float32) if found.smoothing is None else found.smoothing
    errors = [product_error(rows, weight, s, found.bound) for rows in (narrow, wide)]
    assert found.error == pytest.approx(max(errors), rel=1e-3)
    assert errors[0] > 2 * errors[1]  # the control: budgets do differ


def test_a_worse_budget_moves_the_choice():
    """Full budget alone asks for a wide bound; small activations of another budget for a narrower one."""
    wide, narrow = rows_of(), 0.01 * rows_of(seed=2)
    wide[::40] *= 6
    alone = choose(observed_of(j16=wide), weight_of(), foldable=False)
    both = choose(observed_of(j1=narrow, j16=wide), weight_of(), foldable=False)
    assert both.bound < alone.bound


def test_a_smoothing_that_costs_a_pass_must_be_worth_it(monkeypatch):
    outcomes = set()
    for spread in (1.2, 1.5, 3, 10):
        rows = rows_of()
        rows[:, :4] *= spread
        observed, weight = observed_of(j1=rows), weight_of()
        with monkeypatch.context() as patch:
            patch.setattr(search, "WORTH_A_PASS", 1e9)
            plain = choose(observed, weight, foldable=False)
        assert plain.alpha is None
        with monkeypatch.context() as patch:
            patch.setattr(search, "WORTH_A_PASS", 1.0)
            best = choose(observed, weight, foldable=False)
        found = choose(observed, weight, foldable=False)
        gain = plain.error / best.error
        assert (found.alpha is not None) == (gain > WORTH_A_PASS)
        assert not found.folded
        outcomes.add((best.alpha is not None, found.alpha is not None))
    assert outcomes >= {(True, False), (True, True)}  # gains on both sides were tried


def test_the_choice_is_the_same_every_time():
    observed = observed_of(j1=rows_of(), j16=3 * rows_of(seed=5))
    first, second = (choose(observed, weight_of(), foldable=True) for _ in range(2))
    assert (first.observer, first.alpha, first.bound, first.error) == (
        second.observer, second.alpha, second.bound, second.error,
    )  # fmt: skip
    if first.smoothing is not None:
        np.testing.assert_array_equal(first.smoothing, second.smoothing)


def test_the_greatest_of_all_rows_counts_though_it_was_not_kept():
    """min-max is of all that was observed: a value that no kept row holds."""
    observed = observed_of(j1=rows_of())
    observed.channel_max[5] = 9.0
    for rule in list(search.OBSERVERS):
        only = {name: search.OBSERVERS[name] for name in ("min-max", rule)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "OBSERVERS", only)
            patch.setattr(search, "ALPHAS", (None, 0.5))
            found = choose(observed, weight_of(), foldable=False)
        assert 0 < found.bound <= 9.0
        if found.observer == "min-max" and found.alpha is None:
            assert found.bound == 9.0


def test_zeros_alone_give_a_scale_above_zero():
    found = choose(observed_of(j1=np.zeros((20, INPUTS), np.float32)), weight_of(), foldable=True)
    assert found.error == 0
    assert np.float32(found.scale) > 0
    assert found.alpha is None


def test_a_scale_is_the_bound_in_so_many_levels():
    found = choose(observed_of(j1=rows_of()), weight_of(), foldable=True)
    assert found.scale == found.bound / 127
