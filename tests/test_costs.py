"""The cost model on synthetic profiles whose every figure can be worked out by hand."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elit_edge.costs import Conditions, Costs, Memory, Point, Profile

FLOPS = {1: 100, 2: 200, 4: 400, 8: 1000}


def profile(points, *, conditions=((2, 1.0), (64, 32.0)), solver_ms=0.0, memory=(), watts=None):
    """`points`: {(latents, batch): ms}; `conditions` and `memory`: (rows or batch, ms or bytes)."""
    return Profile(
        runtime="synthetic",
        precision="fp32",
        version="1",
        threads=None,
        open_ms=500.0,
        points=tuple(
            Point(latents=latents, batch=batch, first_ms=9 * ms, median_ms=ms, p90_ms=2 * ms, n=7)
            for (latents, batch), ms in points.items()
        ),
        conditions=tuple(Conditions(rows=rows, median_ms=ms) for rows, ms in conditions),
        solver_ms=solver_ms,
        waking_ms=0.0,
        drift=0.02,
        memory=tuple(Memory(batch=batch, peak_bytes=size) for batch, size in memory),
        watts=watts,
    )


def costs(points, **given):
    return Costs(profile(points, **given), FLOPS)


GRID = {(1, 1): 10.0, (8, 1): 55.0, (1, 2): 15.0, (8, 2): 100.0, (1, 4): 27.0, (8, 4): 190.0}


def test_measured_points_are_given_back_exactly():
    model = costs(GRID)
    for (latents, batch), ms in GRID.items():
        assert model.pass_ms(latents, batch) == pytest.approx(ms, rel=1e-12)


def test_measured_points_are_given_back_where_a_larger_budget_was_faster():
    """Specialised graphs and lucky shapes: the times are not monotone in J."""
    points = {(1, 1): 12.0, (2, 1): 30.0, (8, 1): 20.0, (1, 2): 12.0, (2, 2): 33.0, (8, 2): 40.0}
    model = costs(points)
    assert {key: model.pass_ms(*key) for key in points} == pytest.approx(points)


def test_a_measured_point_is_given_back_where_a_larger_batch_was_faster():
    assert costs({(8, 1): 20.0, (8, 2): 18.0}).pass_ms(8, 2) == pytest.approx(18)


def test_between_measured_budgets_a_pass_is_linear_in_flops():
    """100 FLOPs take 10 ms and 1000 take 55: 5 ms a hundred more."""
    model = costs(GRID)
    assert model.pass_ms(2, 1) == pytest.approx(15)
    assert model.pass_ms(4, 1) == pytest.approx(25)


def test_between_measured_batches_a_pass_is_linear_in_the_batch():
    model = costs(GRID)
    assert model.pass_ms(1, 3) == pytest.approx(21)
    assert model.pass_ms(8, 3) == pytest.approx(145)


def test_between_budgets_measured_at_a_larger_batch_its_time_is_linear_in_flops():
    """Two samples: 15 ms at 100 FLOPs, 100 at 1000; four 27 and 190."""
    model = costs(GRID)
    assert model.pass_ms(2, 2) == pytest.approx(15 + 85 / 9)
    assert model.pass_ms(2, 3) == pytest.approx(21 + 124 / 9)


def test_beyond_the_largest_batch_its_slope_goes_on():
    model = costs(GRID)
    assert model.pass_ms(1, 8) == pytest.approx(27 + 4 * 6)
    assert model.pass_ms(8, 6) == pytest.approx(190 + 2 * 45)


def test_below_the_least_batch_a_pass_goes_on_falling():
    """Batches of 2 and 4 measured, 20 ms a sample."""
    assert costs({(8, 2): 100.0, (8, 4): 140.0}).pass_ms(8, 1) == pytest.approx(80)


def test_below_the_least_batch_a_pass_takes_its_share_of_it_at_least():
    """`measure` always has a batch of 1; a profile from elsewhere may not."""
    assert costs({(8, 2): 100.0, (8, 4): 310.0}).pass_ms(8, 1) >= 50


def test_one_measured_batch_is_scaled_by_the_samples():
    model = costs({(1, 2): 10.0, (8, 2): 100.0})
    assert model.pass_ms(8, 1) == pytest.approx(50)
    assert model.pass_ms(8, 2) == pytest.approx(100)
    assert model.pass_ms(1, 7) == pytest.approx(35)


def test_a_batch_that_was_measured_at_the_full_budget_alone_does_not_make_all_budgets_alike():
    """Batches 1 and 2 say that a fifth of the time is enough for one latent; so it is for four samples."""
    model = costs({(1, 1): 10.0, (8, 1): 50.0, (1, 2): 20.0, (8, 2): 100.0, (8, 4): 200.0})
    assert model.pass_ms(8, 4) == pytest.approx(200)
    assert model.pass_ms(1, 4) == pytest.approx(40, rel=0.25)


def test_what_a_large_batch_saves_at_the_full_budget_it_saves_in_proportion_at_the_others():
    """Four samples take 60% of four times one: 120 of 200 ms at the full budget, so about 24 of 40 with one latent."""
    model = costs({(1, 1): 10.0, (8, 1): 50.0, (1, 2): 16.0, (8, 2): 80.0, (8, 4): 120.0})
    assert model.pass_ms(8, 4) == pytest.approx(120)
    assert model.pass_ms(1, 4) == pytest.approx(24, rel=0.2)


def test_beyond_the_budgets_of_a_larger_batch_a_pass_goes_as_that_of_the_smallest():
    """One sample: 10, 15, 25, 55 ms at 1, 2, 4, 8 latents. Two: 30 at 2 and 40 at 4, so 30 · 10 / 15 and 40 · 55 / 25
    at the ends; four, three times one at 2 latents alone, is so everywhere."""
    model = costs({(1, 1): 10.0, (8, 1): 55.0, (2, 2): 30.0, (4, 2): 40.0, (2, 4): 45.0})
    assert [model.pass_ms(latents, 2) for latents in FLOPS] == pytest.approx([20, 30, 40, 88])
    assert [model.pass_ms(latents, 4) for latents in FLOPS] == pytest.approx([30, 45, 75, 165])


def test_budgets_outside_those_measured_cost_no_less_than_their_neighbours():
    model = costs({(2, 1): 15.0, (4, 1): 25.0})
    assert 0 < model.pass_ms(1, 1) <= 15
    assert model.pass_ms(8, 1) >= 25


@given(
    st.lists(st.floats(0.1, 50), min_size=2, max_size=2),
    st.lists(st.floats(0.1, 50), min_size=2, max_size=2),
    st.integers(1, 40),
)
def test_where_what_was_measured_grows_the_prediction_grows_too(least, more, batch):
    """Two budgets at batches 1 and 2; `more` are the increments."""
    low, high = sorted(least)
    points = {(1, 1): low, (8, 1): high, (1, 2): low + more[0], (8, 2): high + sum(more)}
    model = costs(points)
    by_latents = [model.pass_ms(latents, batch) for latents in FLOPS]
    assert all(a <= b + 1e-9 for a, b in pairwise(by_latents))
    for latents in FLOPS:
        assert 0 < model.pass_ms(latents, batch) <= model.pass_ms(latents, batch + 1) + 1e-9


def test_a_step_is_its_passes_and_the_solver():
    """cfg doubles the batch of one pass; ccfg and autoguidance have two passes, the weak one at its own budget."""
    model = costs(GRID, solver_ms=0.5)
    assert model.step_ms(8, 1, "none", 1) == pytest.approx(55.5)
    assert model.step_ms(8, 1, "cfg", 1) == pytest.approx(100.5)
    assert model.step_ms(8, 2, "cfg", 1) == pytest.approx(191)
    assert model.step_ms(8, 1, "ccfg", 1) == pytest.approx(65.5)
    assert model.step_ms(8, 2, "ccfg", 1) == pytest.approx(100 + 15 + 1)
    assert model.step_ms(8, 1, "autoguidance", 8) == pytest.approx(110.5)


def test_conditions_are_linear_in_their_rows():
    """1 ms for 2 rows and 32 for 64: half a millisecond a row."""
    model = costs(GRID)
    for rows, ms in ((2, 1), (10, 5), (64, 32), (100, 50)):
        assert model.condition_ms(rows) == pytest.approx(ms)


def test_conditions_never_cost_less_than_the_fewest_that_were_measured():
    falling = costs(GRID, conditions=((2, 3.0), (64, 1.0)))
    assert falling.condition_ms(200) == pytest.approx(3)
    assert costs(GRID).condition_ms(1) == pytest.approx(1)


def test_conditions_measured_once_grow_with_their_rows():
    model = costs(GRID, conditions=((4, 2.0),))
    assert [model.condition_ms(rows) for rows in (1, 4, 8)] == pytest.approx([2, 2, 4])


def test_memory_grows_with_the_batch_from_what_was_measured():
    model = costs(GRID, memory=((1, 1000), (4, 1600)))
    assert [model.memory_bytes(batch) for batch in (1, 2, 4, 6)] == [1000, 1200, 1600, 2000]


def test_memory_of_one_batch_and_memory_that_did_not_grow_stay_as_measured():
    assert costs(GRID, memory=((1, 1000),)).memory_bytes(8) == 1000
    assert costs(GRID, memory=((1, 1000), (4, 900))).memory_bytes(8) == 1000


def test_what_the_platform_does_not_tell_is_none_and_not_zero():
    model = costs(GRID)
    assert model.memory_bytes(1) is None
    assert model.joules(100) is None


def test_energy_is_power_times_time():
    """20 W for half a second."""
    assert costs(GRID, watts=20.0).joules(500) == pytest.approx(10)
