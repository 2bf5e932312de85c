"""The loss of a plan against tables that can be read by eye, and the published table against the paper's figures."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elit_edge.quality import Band, Cell, Loss, QualityTable, published_table
from elit_edge.sampling import times

PLAIN = ("none", 1)
PAPER = {
    10: {1.0: 28.8, 0.75: 29.4, 0.5: 30.0, 0.25: 32.1, 0.125: 35.8},
    20: {1.0: 16.3, 0.75: 16.6, 0.5: 17.1, 0.25: 18.7, 0.125: 21.6},
    40: {1.0: 12.15, 0.75: 12.5, 0.5: 12.95, 0.25: 14.2, 0.125: 16.8},
}
"""FID10K by steps and share of the latents: field-notes, "Budgets"."""


def cell(steps, latents, distance, variant=PLAIN):
    return Cell(
        steps=steps,
        latents=latents,
        guidance=variant[0],
        weak_latents=variant[1],
        distance=distance,
        low=distance,
        high=distance,
        frechet=None,
    )


def table(distances, *, bands=(), variant=PLAIN, solver="euler", full=16):
    """`distances`: {(steps, latents): distance}; `bands`: (steps, latents, start, end, distance)."""
    return QualityTable(
        reference=cell(100, full, 0.0, variant),
        solver=solver,
        scale=1.0,
        pictures=8,
        seed=0,
        features_sha256=None,
        cells=tuple(cell(*plan, distance, variant) for plan, distance in distances.items()),
        bands=tuple(
            Band(steps=steps, latents=latents, start=start, end=end, distance=distance)
            for steps, latents, start, end, distance in bands
        ),
    )


GRID = {
    (2, 1): 0.8,
    (2, 4): 0.6,
    (2, 16): 0.5,
    (4, 1): 0.6,
    (4, 4): 0.4,
    (4, 16): 0.25,
    (8, 1): 0.5,
    (8, 4): 0.3,
    (8, 16): 0.125,
}


def quarter_bands(distances, steps=4, latents=1):
    """A small budget in each quarter of the run alone, the noisy one first."""
    return [(steps, latents, 1 - i / 4, 0.75 - i / 4, distance) for i, distance in enumerate(distances)]


EVEN_BANDS = quarter_bands([0.3] * 4)
"""All times alike."""
EARLY_BANDS = quarter_bands([0.45, 0.35, 0.3, 0.26])
"""A small budget costs most where there is most noise."""


def even(loss, steps, latents, variant=PLAIN, solver="euler"):
    return loss.of(variant, times(solver, steps), [latents] * steps)


@pytest.mark.parametrize("bands", [[], EVEN_BANDS, EARLY_BANDS], ids=["no bands", "even bands", "early bands"])
@pytest.mark.parametrize(("steps", "latents"), [(steps, latents) for steps, latents in GRID if steps > 2])
def test_an_even_plan_loses_what_its_cell_says(steps, latents, bands):
    assert even(Loss(table(GRID, bands=bands)), steps, latents) == pytest.approx(GRID[steps, latents], rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_an_even_plan_loses_what_its_cell_says_where_steps_straddle_the_bands(steps):
    cells = {
        (count, latents): 0.1 / count if latents == 16 else 1 / count for count in (steps, 4) for latents in (1, 16)
    }
    bands = quarter_bands([0.2, 0.15, 0.1, 0.06])
    assert even(Loss(table(cells, bands=bands)), steps, 1) == pytest.approx(1 / steps, rel=1e-6)


@pytest.mark.parametrize("steps", [4, 8])
def test_an_even_plan_of_the_stochastic_solver_loses_what_its_cell_says(steps):
    """Its last step, from 0.04 to 0, is shorter than the others; the cell was measured with it."""
    loss = Loss(table(GRID, solver="euler-maruyama"))
    assert even(loss, steps, 4, solver="euler-maruyama") == pytest.approx(GRID[steps, 4], rel=1e-6)


def test_squared_distances_of_the_parts_of_a_run_add_up():
    """Half a run at each of two budgets: the mean of their squares."""
    loss = Loss(table(GRID))
    mixed = loss.of(PLAIN, times("euler", 4), [16, 16, 1, 1])
    assert mixed == pytest.approx(((0.25**2 + 0.6**2) / 2) ** 0.5)
    assert mixed == pytest.approx(loss.of(PLAIN, times("euler", 4), [1, 16, 1, 16]))


def test_a_run_may_change_the_length_of_its_steps():
    """Two steps of a plan of four to the middle, one of a plan of two to the end."""
    found = Loss(table(GRID)).of(PLAIN, [1, 0.75, 0.5, 0], [16, 16, 4])
    assert found == pytest.approx(((0.25**2 + 0.6**2) / 2) ** 0.5)


def test_between_step_counts_the_loss_is_a_power_law():
    """0.5, 0.25, 0.125 at 2, 4, 8 steps: 1 / steps, so 1 / 3 at 3 and 1 / 6 at 6."""
    loss = Loss(table(GRID))
    assert even(loss, 3, 16) == pytest.approx(1 / 3)
    assert even(loss, 6, 16) == pytest.approx(1 / 6)


def test_below_the_first_step_count_the_power_law_goes_on():
    assert even(Loss(table(GRID)), 1, 16) == pytest.approx(1)
    assert even(Loss(table(GRID)), 1, 1) == pytest.approx(0.8**2 / 0.6)


def test_more_steps_than_were_measured_promise_nothing_more():
    loss = Loss(table(GRID))
    assert even(loss, 100, 4) == pytest.approx(0.3)
    assert loss.step_counts == (1, 8)


def test_a_table_with_one_count_of_steps_judges_no_other():
    """How fast the loss falls with the steps cannot be read from it."""
    loss = Loss(table({(8, 1): 0.5, (8, 16): 0.125}))
    assert even(loss, 8, 16) == pytest.approx(0.125)
    assert loss.step_counts == (8, 8)


def test_between_budgets_the_loss_lies_between_theirs():
    found = Loss(table(GRID)).squared(PLAIN, 4, range(1, 17))
    assert found[[0, 3, 15]] == pytest.approx([0.36, 0.16, 0.0625])
    assert all(a > b for a, b in pairwise(found))


def test_a_table_says_which_budgets_it_knows():
    loss = Loss(table({(steps, latents): d for (steps, latents), d in GRID.items() if latents > 1}))
    assert loss.measured_latents(PLAIN) == (4, 16)


def test_a_hole_between_cells_is_filled_from_its_neighbours():
    holed = {plan: distance for plan, distance in GRID.items() if plan != (4, 4)}
    found = even(Loss(table(holed)), 4, 4)
    assert 0.25 < found < 0.6
    assert even(Loss(table(holed)), 8, 4) == pytest.approx(0.3)


def test_a_hole_at_the_end_of_a_row_is_no_gift():
    """At 2 and 8 steps one latent is far worse than four; where it was not measured, it is so too."""
    holed = {plan: distance for plan, distance in GRID.items() if plan != (4, 1)}
    found = even(Loss(table(holed)), 4, 1)
    assert found == pytest.approx(0.6, rel=0.25)


@pytest.mark.parametrize(("zero", "floor"), [((8, 16), 0.125), ((8, 1), 0.0625)])
def test_a_distance_of_zero_breaks_nothing(zero, floor):
    """It has no logarithm: half the least positive distance, 0.25 or 0.125, stands for it."""
    loss = Loss(table({**GRID, zero: 0.0}, bands=EARLY_BANDS))
    assert even(loss, *zero) == pytest.approx(floor)
    for steps in range(1, 12):
        for latents in range(1, 17):
            assert 0 <= even(loss, steps, latents) < 2


@pytest.mark.parametrize(("zero", "steps"), [((8, 16), 6), ((4, 16), 1)])
def test_a_distance_of_zero_does_not_spoil_its_neighbours(zero, steps):
    """The reference itself may be in the grid: near it a plan is good, not perfect; far from it bad, not infinite."""
    assert 0.01 < even(Loss(table({**GRID, zero: 0.0})), steps, 16) < 5


def test_steps_of_different_guidance_add_up():
    """Two quarters at 0.25, one at half of 0.4, one at half of 0.25."""
    both = table(GRID)
    more = tuple(cell(steps, latents, d / 2, ("ccfg", 4)) for (steps, latents), d in GRID.items())
    loss = Loss(msgspec.structs.replace(both, cells=both.cells + more))
    steps = [(PLAIN, 16), (PLAIN, 16), (("ccfg", 4), 4), (("ccfg", 4), 16)]
    squares = (0.25**2, 0.25**2, 0.2**2, 0.125**2)
    assert loss.of_steps(times("euler", 4), steps) ** 2 == pytest.approx(sum(squares) / 4)


def test_guidances_have_losses_of_their_own():
    both = table(GRID)
    more = tuple(cell(steps, latents, d / 2, ("ccfg", 4)) for (steps, latents), d in GRID.items() if latents >= 4)
    loss = Loss(msgspec.structs.replace(both, cells=both.cells + more))
    assert loss.variants == (PLAIN, ("ccfg", 4))
    assert even(loss, 4, 16) == pytest.approx(0.25)
    assert even(loss, 4, 16, ("ccfg", 4)) == pytest.approx(0.125)


QUARTERS = np.array([1, 0.75, 0.5, 0.25, 0])
"""Steps that are the four bands, the noisy one first."""


def test_without_bands_all_times_weigh_the_same():
    np.testing.assert_array_equal(Loss(table(GRID)).weights([1, 0.5, 0.001]), [1, 1])


def test_weights_are_what_each_band_lost():
    """By hand: d² - 0.25² = 0.14, 0.06, 0.0275, 0.0051; over their mean, 0.05815."""
    found = Loss(table(GRID, bands=EARLY_BANDS)).weights(QUARTERS)
    np.testing.assert_allclose(found, np.array([0.14, 0.06, 0.0275, 0.0051]) / 0.05815, rtol=1e-9)
    assert found.mean() == pytest.approx(1)


def test_a_step_over_several_bands_has_the_mean_of_their_weights():
    """The first two weigh 0.14 and 0.06 over 0.05815; a third of the first and all of the second lie in (0.5, 0.83]."""
    loss = Loss(table(GRID, bands=EARLY_BANDS))
    assert loss.weights([1, 0.5, 0]) == pytest.approx([0.1 / 0.05815, 0.0163 / 0.05815])
    wanted = (0.14 / 3 + 0.06) / (4 / 3) / 0.05815
    assert loss.weights([1, 0.75 + 0.25 / 3, 0.5, 0])[1] == pytest.approx(wanted)


def test_bands_of_two_budgets_and_counts_of_steps_are_joined():
    more = quarter_bands([0.3, 0.26, 0.2, 0.14], steps=8, latents=4)
    found = Loss(table(GRID, bands=[*EARLY_BANDS, *more])).weights(QUARTERS)
    assert found.mean() == pytest.approx(1)
    assert all(a > b for a, b in pairwise(found))


@pytest.mark.parametrize("bands", [quarter_bands([0.45, 0.35, 0.25, 0.2]), quarter_bands([0.45, 0.35])])
def test_weights_have_mean_one_where_a_band_lost_nothing_or_was_not_measured(bands):
    assert Loss(table(GRID, bands=bands)).weights(QUARTERS).mean() == pytest.approx(1)


def test_a_small_budget_is_better_spent_at_a_time_that_needs_little():
    loss = Loss(table(GRID, bands=EARLY_BANDS))
    late = loss.of(PLAIN, times("euler", 4), [16, 16, 1, 1])
    early = loss.of(PLAIN, times("euler", 4), [1, 1, 16, 16])
    assert 0.25 < late < early < 0.6
    assert late**2 + early**2 == pytest.approx(0.25**2 + 0.6**2)


def test_a_band_alone_loses_as_much_as_it_was_measured_to_where_bands_add_up():
    """Rises of 0.1, 0.08, 0.06, 0.0575 add up to 0.36 - 0.0625, the whole run's."""
    rises = [0.1, 0.08, 0.06, 0.0575]
    loss = Loss(table(GRID, bands=quarter_bands([(0.0625 + rise) ** 0.5 for rise in rises])))
    for step, rise in enumerate(rises):
        budgets = [1 if i == step else 16 for i in range(4)]
        assert loss.of(PLAIN, times("euler", 4), budgets) ** 2 == pytest.approx(0.0625 + rise)


@given(
    st.dictionaries(
        st.tuples(st.sampled_from([1, 2, 5, 9]), st.sampled_from([1, 3, 16])), st.floats(0.01, 3), min_size=1
    ),
    st.lists(st.floats(0, 3), min_size=4, max_size=4),
    st.lists(st.integers(1, 16), min_size=1, max_size=12),
)
def test_any_table_and_plan_has_a_finite_loss(cells, distances, latents):
    loss = Loss(table(cells, bands=quarter_bands(distances)))
    found = loss.of(PLAIN, times("euler", len(latents)), latents)
    assert np.isfinite(found)
    assert found >= 0
    assert (loss.weights(QUARTERS) > 0).all()


def published(latents_per_group):
    made = published_table(latents_per_group, "ccfg", 1, 2.5)
    assert (made.origin, made.pictures, made.features_sha256) == ("published", 0, None)
    return Loss(made)


def fid(loss, steps, latents):
    return even(loss, steps, latents, ("ccfg", 1)) ** 2


@pytest.mark.parametrize("full", [8, 16, 64])
def test_the_published_table_says_what_the_paper_says(full):
    loss = published(full)
    for steps, row in PAPER.items():
        for share, value in row.items():
            assert fid(loss, steps, round(full * share)) == pytest.approx(value)


@pytest.mark.parametrize("full", [4, 8, 16, 36, 49, 64])
def test_fewer_latents_before_fewer_steps(full):
    """The paper's finding: at equal work, 35 steps at 25% (14.65) beat 20 at 100% (16.3)."""
    loss = published(full)
    assert fid(loss, 35, round(full / 4)) < fid(loss, 20, full)
    assert fid(loss, 35, round(full / 4)) == pytest.approx(14.65, rel=0.03)


@pytest.mark.parametrize("full", [1, 2, 3, 4])
def test_small_models_get_figures_between_those_of_the_shares_beside_theirs(full):
    loss = published(full)
    for latents in range(1, full + 1):
        above = min(share for share in PAPER[20] if share >= latents / full)
        below = max(share for share in PAPER[20] if share <= latents / full)
        for steps, row in PAPER.items():
            assert row[above] - 1e-9 <= fid(loss, steps, latents) <= row[below] + 1e-9


@pytest.mark.parametrize("full", [1, 2, 3, 4, 5, 7, 16])
def test_the_published_table_orders_budgets_and_steps_of_any_model(full):
    loss = published(full)
    for steps in (5, 10, 20, 30, 40):
        row = [fid(loss, steps, latents) for latents in range(1, full + 1)]
        assert all(a >= b for a, b in pairwise(row))
        assert full == 1 or row[0] > row[-1]
    for latents in {1, full}:
        column = [fid(loss, steps, latents) for steps in (1, 5, 10, 20, 30, 40)]
        assert all(a > b for a, b in pairwise(column))


@pytest.mark.parametrize(("full", "least"), [(64, 8), (16, 2), (8, 1), (2, 1), (1, 1)])
def test_less_than_the_least_published_share_is_not_known(full, least):
    assert published(full).measured_latents(("ccfg", 1)) == (least, full)
