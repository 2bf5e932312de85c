"""Solvers on fields whose answer is known, and when guidance acts. The authors' results are in test_generation.py."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elit_edge.errors import PictureError, RequestError
from elit_edge.sampling import Guidance, Move, solve, times

SHAPE = (2, 1, 3, 3)
START = np.random.default_rng(5).standard_normal(SHAPE)
PICTURE = np.random.default_rng(6).standard_normal(SHAPE)


def even(latents):
    """Every time of a grid in turn, at these budgets."""
    return [Move(index, budget, 1) for index, budget in enumerate(latents, 1)]


def run(velocity, solver, steps, start=START, draw=None):
    """All steps of a run over a field v(x, t)."""
    grid = times(solver, steps)
    return list(solve(lambda x, index, _: velocity(x, grid[index]), start, solver, grid, even([1] * steps), draw))


def bend(x, t):
    """dx/dt = 3 cos(3t) x; from t = 1 to 0 it takes x to x exp(-sin 3)."""
    return 3 * math.cos(3 * t) * x


def straight(x, t):
    """The flow of a single picture, which every path takes in a straight line."""
    return (x - PICTURE) / t


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_a_solver_converges_with_its_order(solver, order):
    wanted = START * math.exp(-math.sin(3))
    errors = [np.abs(run(bend, solver, steps)[-1].x - wanted).max() for steps in (100, 200, 400)]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_straight_flow_is_solved_exactly_in_any_number_of_steps(solver, steps):
    done = run(straight, solver, steps)
    np.testing.assert_allclose(done[-1].x, PICTURE, atol=1e-12)
    for step in done:
        np.testing.assert_allclose(step.x0, PICTURE, atol=1e-12)
        np.testing.assert_allclose(step.x, (1 - step.t) * PICTURE + step.t * START, atol=1e-12)


def test_a_heun_step_is_the_mean_of_the_slopes_at_its_ends():
    """By hand: x' = t from 1, two steps: 1 - (1 + 1/2)/4 = 0.625, then the last one plain: 0.625 - 1/2 · 1/2."""
    done = run(np.full_like, "heun", 2, start=np.ones(SHAPE))
    np.testing.assert_allclose([step.x[0, 0, 0, 0] for step in done], [0.625, 0.375], atol=1e-15)


@pytest.mark.parametrize(("solver", "evaluations"), [("euler", 4), ("heun", 7), ("euler-maruyama", 4)])
def test_a_solver_evaluates_the_field_as_often_as_it_must(solver, evaluations):
    asked = []

    def draw():
        return np.zeros(SHAPE)

    for _ in solve(lambda x, index, _: asked.append(index) or x, START, solver, times(solver, 4), even([1] * 4), draw):
        pass
    assert len(asked) == evaluations
    assert asked == sorted(asked)
    assert asked[-1] == 3


@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
def test_every_evaluation_of_a_step_gets_the_budget_of_that_step(solver):
    asked, steps = set(), []

    def field(x, _, move):
        asked.add(move.latents)
        return x

    for step in solve(field, START, solver, times(solver, 3), even([9, 2, 5])):
        steps.append((step.move.to, step.move.latents, asked.copy()))
        asked.clear()
    assert steps == [(1, 9, {9}), (2, 2, {2}), (3, 5, {5})]


@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
def test_steps_are_taken_only_when_they_are_asked_for(solver):
    asked = []
    steps = solve(lambda x, index, _: asked.append(index) or x, START, solver, times(solver, 5), even([1] * 5))
    assert asked == []
    next(steps)
    assert set(asked) <= {0, 1}


@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
def test_the_start_and_the_states_given_out_stay_as_they_were(solver):
    start = START.copy()
    states = [(step.x, step.x.copy()) for step in run(bend, solver, 5, start, lambda: np.ones(SHAPE))]
    np.testing.assert_array_equal(start, START)
    for kept, copied in states:
        np.testing.assert_array_equal(kept, copied)


def test_the_state_is_float64_whatever_the_precision_of_the_field():
    """1e-9 a step is lost in float32 beside a state of 1."""
    done = run(lambda x, _: np.full(x.shape, -1e-8, np.float32), "euler", 10, start=np.ones(SHAPE))
    assert done[-1].x.dtype == np.float64
    np.testing.assert_allclose(done[-1].x - 1, 1e-8, rtol=1e-6)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 3, 10, 25, 1000])
def test_times_of_the_deterministic_solvers_fall_evenly_from_1_to_0(solver, steps):
    grid = times(solver, steps)
    assert grid.dtype == np.float64
    assert grid.tolist() == [1 - i / steps for i in range(steps + 1)]
    assert (grid[0], grid[-1]) == (1, 0)


@pytest.mark.parametrize("steps", [1, 2, 5, 250])
def test_times_of_the_stochastic_solver_end_at_004_and_then_0(steps):
    grid = times("euler-maruyama", steps)
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (1, 0)
    if steps > 1:
        assert grid[-2] == pytest.approx(0.04, abs=1e-15)
        np.testing.assert_allclose(np.diff(grid[:-1]), -0.96 / (steps - 1), rtol=1e-9)


def test_the_stochastic_solver_keeps_the_marginals_of_a_gaussian_target():
    """x0 ~ N(m, s²) has x_t ~ N((1-t) m, (1-t)² s² + t²), and its velocity E[noise - x0 | x_t] is known."""
    mean, deviation, count, steps = 2.0, 0.5, 40_000, 250

    def variance(t):
        return ((1 - t) * deviation) ** 2 + t**2

    def velocity(x, t):
        return -mean + (t - (1 - t) * deviation**2) / variance(t) * (x - (1 - t) * mean)

    random = np.random.default_rng(8)
    shape = (count, 1, 1, 1)
    done = run(velocity, "euler-maruyama", steps, random.standard_normal(shape), lambda: random.standard_normal(shape))
    for step in (*done[20:-1:40], done[-2], done[-1]):
        assert step.x.mean() == pytest.approx((1 - step.t) * mean, abs=0.02)
        assert step.x.std() == pytest.approx(math.sqrt(variance(step.t)), rel=0.03)


def test_the_stochastic_solver_forgets_its_start_and_the_plain_one_does_not():
    """The same check without noise would pass for an ODE that keeps the marginals: here the noise has to act."""

    def velocity(x, t):
        return (2 * t - 1) / ((1 - t) ** 2 + t**2) * x

    random = np.random.default_rng(9)
    shape = (20_000, 1, 1, 1)
    start = random.standard_normal(shape)
    kept = run(velocity, "euler", 100, start)[-1].x
    renewed = run(velocity, "euler-maruyama", 100, start, lambda: random.standard_normal(shape))[-1].x
    assert np.corrcoef(start.ravel(), kept.ravel())[0, 1] > 0.99
    assert abs(np.corrcoef(start.ravel(), renewed.ravel())[0, 1]) < 0.5


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_the_last_stochastic_step_adds_no_noise(steps):
    drawn = []
    finished = run(lambda x, _: x, "euler-maruyama", steps, draw=lambda: drawn.append(1) or np.ones(SHAPE))
    assert len(drawn) == steps - 1
    before = finished[-2].x if steps > 1 else START
    t = 0.04 if steps > 1 else 1.0
    score = (-(1 - t) * before - before) / t
    np.testing.assert_allclose(finished[-1].x, before - t * (before - t * score), rtol=1e-12)


def test_a_stochastic_step_adds_noise_of_the_root_of_its_diffusion():
    """w(1) = 2 over dt = 0.48: numbers of one add sqrt(0.96)."""
    plain = run(lambda x, _: x, "euler-maruyama", 3, draw=lambda: np.zeros(SHAPE))[0].x
    noisy = run(lambda x, _: x, "euler-maruyama", 3, draw=lambda: np.ones(SHAPE))[0].x
    np.testing.assert_allclose(noisy - plain, math.sqrt(0.96), rtol=1e-12)


@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_state_that_is_not_finite_ends_the_run_naming_step_and_budget(solver, bad):
    def field(x, index, _):
        v = np.zeros(SHAPE)
        v[1, 0, 2, 2] = bad if index == 2 else 0
        return v

    step, latents = (2, 8) if solver == "heun" else (3, 7)
    good = []
    with pytest.raises(PictureError, match=rf"step {step} of 4 .*, {latents} latents a group.*reference runtime"):
        good.extend(solve(field, START, solver, times(solver, 4), even([9, 8, 7, 6]), lambda: np.zeros(SHAPE)))
    assert len(good) == step - 1


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_times_may_be_left_out_and_the_straight_flow_is_still_exact(solver):
    grid = times(solver, 10)
    done = list(solve(lambda x, i, _: straight(x, grid[i]), START, solver, grid, [Move(3, 1, 1), Move(10, 1, 1)]))
    assert [step.t for step in done] == pytest.approx([0.7, 0])
    np.testing.assert_allclose(done[0].x, 0.3 * PICTURE + 0.7 * START, atol=1e-12)
    np.testing.assert_allclose(done[-1].x, PICTURE, atol=1e-12)


def test_a_run_ends_where_its_moves_do():
    done = list(solve(lambda x, *_: x, START, "euler", times("euler", 10), even([1] * 4)))
    assert [step.move.to for step in done] == [1, 2, 3, 4]


@pytest.mark.parametrize("to", [0, 2, 11])
def test_a_move_must_lead_on(to):
    moves = [Move(2, 1, 1), Move(to, 1, 1)]
    with pytest.raises(RequestError, match=f"a step to time {to} of 10, from 2"):
        list(solve(lambda x, *_: x, START, "euler", times("euler", 10), moves))


@pytest.mark.parametrize("solver", ["rk4", "", "Euler", "euler_maruyama"])
def test_an_unknown_solver_is_refused_with_those_there_are(solver):
    with pytest.raises(RequestError, match="one of: euler, heun, euler-maruyama"):
        times(solver, 10)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_run_needs_a_step(steps):
    with pytest.raises(RequestError, match=f"steps = {steps}: at least one step"):
        times("euler", steps)


@given(steps=st.integers(1, 300), data=st.data())
def test_both_ends_of_a_guidance_interval_belong_to_it(steps, data):
    """The ends are given as decimal numbers, the times come from a division: they may differ in the last bits."""
    first = data.draw(st.integers(0, steps))
    last = data.draw(st.integers(first, steps))
    grid = times("euler", steps)
    guidance = Guidance("cfg", 2.0, 1, low=(steps - last) / steps, high=(steps - first) / steps)
    acting = [i for i, t in enumerate(grid) if guidance.active(float(t))]
    assert acting == list(range(first, last + 1))


@pytest.mark.parametrize("slip", [-2e-16, 0.0, 2e-16, -9e-7, 9e-7])
def test_a_time_that_misses_an_end_by_rounding_still_belongs(slip):
    guidance = Guidance("ccfg", 3.0, 1, low=0.3, high=0.8)
    assert guidance.active(0.3 + slip)
    assert guidance.active(0.8 + slip)


@pytest.mark.parametrize("t", [0.0, 0.29, 0.299998, 0.800002, 0.81, 1.0])
def test_guidance_does_not_act_outside_its_interval(t):
    assert not Guidance("ccfg", 3.0, 1, low=0.3, high=0.8).active(t)


@pytest.mark.parametrize("kind", ["cfg", "ccfg", "autoguidance"])
@pytest.mark.parametrize(("scale", "acts"), [(0.0, False), (0.5, False), (1.0, False), (1.01, True), (7.5, True)])
def test_guidance_acts_only_at_a_scale_above_1(kind, scale, acts):
    assert Guidance(kind, scale).active(0.5) is acts


def test_no_guidance_never_acts():
    assert not Guidance("none", 5.0).active(0.5)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"kind": "cfgg"}, "one of: none, cfg, ccfg, autoguidance"),
        ({"kind": ""}, "one of: none, cfg, ccfg, autoguidance"),
        ({"scale": -0.1}, "at least 0; 1 is no guidance"),
        ({"scale": math.nan}, "at least 0; 1 is no guidance"),
        ({"scale": math.inf}, "at least 0; 1 is no guidance"),
        ({"low": 0.8, "high": 0.3}, "must lie in 0..1, low end first"),
        ({"low": -0.1}, "must lie in 0..1, low end first"),
        ({"high": 1.1}, "must lie in 0..1, low end first"),
        ({"low": math.nan}, "must lie in 0..1, low end first"),
    ],
)
def test_impossible_guidance_is_refused_with_what_is_possible(settings, advice):
    with pytest.raises(RequestError, match=advice):
        Guidance(**{"kind": "cfg", "scale": 2.0, **settings})
