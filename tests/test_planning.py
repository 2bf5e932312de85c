"""The planner against brute force on small synthetic machines and tables, and every refusal it can give."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from elit_edge import planning
from elit_edge.costs import Conditions, Costs, Memory, Point, Profile
from elit_edge.errors import DeadlineError, PlanError
from elit_edge.frontier import Curve
from elit_edge.planning import Planner, Wish
from elit_edge.quality import Band, Cell, Loss, QualityTable
from elit_edge.sampling import times

PLAIN = ("none", 1)
BUDGETS = (1, 4, 16)
FLOPS = {1: 100, 4: 200, 16: 500}
MARGIN = 1.2815515655446004 * 0.04
"""The 90% point of the normal distribution, of the least drift."""
ALONE = 5 * 0.1
"""The margin of a plan of one step, which no governor can help: four of the first mean deviation."""
STEPS = (1, 2, 3, 4)


def margin_of(steps, drift=0.0):
    return max(1.2815515655446004 * max(drift, 0.04), ALONE / steps)


def profile(
    pass_ms=(10.0, 20.0, 50.0),
    name="a",
    *,
    solver_ms=0.5,
    open_ms=0.0,
    waking_ms=0.0,
    drift=0.0,
    memory=(),
    watts=None,
    batches=(1, 2),
):
    """Passes at `BUDGETS`, twice the time for two samples; conditions take 0.1 ms a row."""
    return Profile(
        runtime=name,
        precision="fp32",
        version="1",
        threads=None,
        open_ms=open_ms,
        points=tuple(
            Point(latents=latents, batch=batch, first_ms=ms, median_ms=ms * batch, p90_ms=ms * batch, n=7)
            for batch in batches
            for latents, ms in zip(BUDGETS, pass_ms, strict=True)
        ),
        conditions=(Conditions(rows=1, median_ms=0.1), Conditions(rows=101, median_ms=10.1)),
        solver_ms=solver_ms,
        waking_ms=waking_ms,
        drift=drift,
        memory=tuple(Memory(batch=batch, peak_bytes=size) for batch, size in memory),
        watts=watts,
    )


def cells(distances, variant=PLAIN):
    return tuple(
        Cell(
            steps=steps,
            latents=latents,
            guidance=variant[0],
            weak_latents=variant[1],
            distance=distance,
            low=distance,
            high=distance,
            frechet=None,
        )
        for (steps, latents), distance in distances.items()
    )


DISTANCES = {(steps, latents): (1 + 0.5 / latents) / steps for steps in STEPS for latents in BUDGETS}


def table(distances=DISTANCES, *, solver="euler", bands=(), more=()):
    reference = Cell(steps=100, latents=16, guidance="none", weak_latents=1, distance=0, low=0, high=0, frechet=None)
    return QualityTable(
        reference=reference,
        solver=solver,
        scale=1.0,
        pictures=8,
        seed=0,
        features_sha256=None,
        cells=cells(distances) + tuple(more),
        bands=bands,
    )


def planner(*profiles, quality=None, **given):
    return Planner([Costs(one, FLOPS) for one in profiles or [profile()]], Loss(quality or table()), FLOPS, **given)


def step_cost(pass_ms, latents, solver_ms=0.5):
    return pass_ms[BUDGETS.index(latents)] + solver_ms


def ways(pass_ms, distances=DISTANCES, *, classes=1, evaluations=lambda steps: steps):
    """(steps, budgets, ms, squared loss) of every plan there is."""
    for steps in STEPS:
        for budgets in itertools.product(BUDGETS, repeat=steps):
            counted = evaluations(steps) / steps
            ms = counted * sum(step_cost(pass_ms, budget) for budget in budgets) + 0.1 * steps * classes + 2.0
            loss = sum(distances[steps, budget] ** 2 for budget in budgets) / steps
            yield steps, budgets, ms, loss


millisecond = st.floats(1, 60)
loss = st.floats(0.01, 2)
small_tables = st.fixed_dictionaries({(steps, latents): loss for steps in STEPS for latents in BUDGETS})


@given(st.tuples(millisecond, millisecond, millisecond), small_tables, st.floats(10, 300))
def test_against_brute_force(pass_ms, distances, deadline):
    """Any times, any table. For its steps and at its own cost a plan is the best there is; and at the bound no plan
    that is one increment cheaper is better."""
    every = list(ways(pass_ms, distances))
    wish = Wish(1, 1, deadline_ms=deadline)
    spare = max(deadline / (1 + margin_of(steps)) - ms for steps, _, ms, _ in every)
    if spare < -1e-6:
        with pytest.raises(DeadlineError):
            planner(profile(pass_ms), quality=table(distances)).plan(wish)
        return
    if spare < 1e-6:
        return
    rows = planner(profile(pass_ms), quality=table(distances)).table(wish)
    for row in rows:
        plan = row.plan
        ms = sum(step_cost(pass_ms, budget) for budget in plan.latents) + 0.1 * plan.steps + 2.0
        assert plan.expected_ms == pytest.approx(ms)
        own = sum(distances[plan.steps, budget] ** 2 for budget in plan.latents) / plan.steps
        assert plan.distance**2 == pytest.approx(own)
        at_its_cost = [found for steps, _, cost, found in every if steps == plan.steps and cost <= ms + 1e-9]
        assert own == pytest.approx(min(at_its_cost))
    chosen = rows[0].plan
    increment = max(pass_ms) - min(pass_ms)
    cheaper = [found for steps, _, ms, found in every if ms <= deadline / (1 + margin_of(steps)) - increment - 1e-6]
    assert chosen.distance**2 <= min(cheaper, default=math.inf) + 1e-9


@given(st.tuples(millisecond, millisecond, millisecond), st.floats(20, 300))
def test_a_budget_that_is_slower_and_worse_is_never_used(pass_ms, deadline):
    """More latents are better in this table; whoever is slower than a larger budget has no place in any plan."""
    dominated = {small for i, small in enumerate(BUDGETS) if any(pass_ms[i] > larger for larger in pass_ms[i + 1 :])}
    try:
        plans = [row.plan for row in planner(profile(pass_ms)).table(Wish(1, 1, deadline_ms=deadline))]
    except DeadlineError as error:
        plans = [error.nearest]
    assert not any(dominated & set(plan.latents) for plan in plans)


@given(st.tuples(millisecond, millisecond, millisecond), small_tables, st.floats(10, 300), st.floats(0, 100))
def test_more_time_never_gives_a_worse_plan(pass_ms, distances, deadline, more):
    made = planner(profile(pass_ms), quality=table(distances))
    try:
        tight = made.plan(Wish(1, 1, deadline_ms=deadline))
    except DeadlineError:
        return
    assert made.plan(Wish(1, 1, deadline_ms=deadline + more)).distance <= tight.distance


@given(st.floats(20, 500), st.floats(0, 0.3), st.integers(1, 3))
def test_the_bound_is_kept_with_its_margin(deadline, drift, classes):
    made = planner(profile(drift=drift))
    try:
        plan = made.plan(Wish(1, classes, deadline_ms=deadline))
    except DeadlineError:
        return
    margin = margin_of(plan.steps, drift)
    assert plan.margin == pytest.approx(margin)
    assert plan.expected_ms * (1 + margin) <= deadline * (1 + 1e-12)
    assert plan.bound_ms == deadline


def test_a_loose_deadline_gives_the_best_plan_and_a_tight_one_the_fastest():
    """By hand: four steps at 16 take 4 · 50.5 + 0.4 + 2 = 204.4; one at 1 takes 10.5 + 0.1 + 2 = 12.6."""
    made = planner()
    best = made.plan(Wish(1, 1, deadline_ms=10_000))
    assert (best.latents, best.expected_ms) == ((16,) * 4, pytest.approx(204.4))
    fastest = made.plan(Wish(1, 1, deadline_ms=12.6 * (1 + ALONE) + 0.01))
    assert (fastest.latents, fastest.expected_ms) == ((1,), pytest.approx(12.6))
    assert (fastest.runtime, fastest.precision, fastest.solver, fastest.guidance) == ("a", "fp32", "euler", "none")


def test_a_batch_costs_what_it_was_measured_to_and_beyond_what_that_predicts():
    """Passes and arithmetic in proportion: 3 samples 3 · 202 + 6, and the conditions of 2 classes 0.8."""
    plan = planner().plan(Wish(3, 2, deadline_ms=10_000))
    assert plan.latents == (16,) * 4
    assert plan.expected_ms == pytest.approx(3 * 202 + 6 + 0.8)


EARLY = tuple(
    Band(steps=4, latents=1, start=1 - i / 4, end=0.75 - i / 4, distance=distance)
    for i, distance in enumerate((0.36, 0.33, 0.3, 0.28))
)


@pytest.mark.parametrize("deadline", range(60, 220, 8))
def test_with_bands_against_brute_force(deadline):
    """The weights of times by `Loss.of`, which has tests of its own."""
    quality = table(bands=EARLY)
    judge = Loss(quality)
    wish = Wish(1, 1, deadline_ms=deadline)
    found = {row.plan.steps: row.plan for row in planner(quality=quality).table(wish) if row.verdict != "too slow"}[4]
    assert found.distance == pytest.approx(judge.of(PLAIN, times("euler", 4), found.latents))
    others = [
        judge.of(PLAIN, times("euler", 4), budgets)
        for steps, budgets, ms, _ in ways((10.0, 20.0, 50.0))
        if steps == 4 and ms <= found.expected_ms + 1e-9
    ]
    assert found.distance == pytest.approx(min(others))


def test_a_plan_has_the_distance_of_its_loss_where_the_full_budget_is_slower_and_worse():
    distances = {**DISTANCES, **{(steps, 16): 1.4 / steps for steps in STEPS}, **{(s, 4): 1.1 / s for s in STEPS}}
    quality = table(distances, bands=EARLY)
    plan = next(
        row.plan
        for row in planner(quality=quality).table(Wish(1, 1, deadline_ms=62))
        if row.plan.steps == 4 and len(set(row.plan.latents)) == 2
    )
    assert plan.distance == pytest.approx(Loss(quality).of(PLAIN, times("euler", 4), plan.latents))


STEP_MS = np.array([10.5, 20.5, 50.5])


@pytest.mark.parametrize("bands", [(), EARLY], ids=["no bands", "early bands"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_the_tail_of_a_curve_is_the_curve_of_the_times_that_are_left(first, solver, bands):
    """The same density of steps: at every bound and cap the same budgets, time and loss."""
    loss, grid = Loss(table(solver=solver, bands=bands)), times(solver, 4)
    tail = Curve(loss, PLAIN, BUDGETS, STEP_MS, grid).tail(first)
    alone = Curve(loss, PLAIN, BUDGETS, STEP_MS, grid[first:])
    for bound in np.arange(5, 400, 3.7):
        for top in (None, 0, 1):
            assert tail.latents(bound, top) == alone.latents(bound, top)
            fitted = tail.fit(bound, top)
            assert fitted is None or fitted == pytest.approx(alone.fit(bound, top))
            assert (fitted is None) == (alone.fit(bound, top) is None)


@pytest.mark.parametrize("first", [1, 2])
def test_the_tail_of_a_curve_against_brute_force(first):
    """What it says of time and loss is so, and no other way over the steps left is better at that cost."""
    loss, grid = Loss(table(bands=EARLY)), times("euler", 4)
    curve = Curve(loss, PLAIN, BUDGETS, STEP_MS, grid)
    tail = curve.tail(first)
    every = {
        budgets: (
            sum(step_cost((10.0, 20.0, 50.0), budget) for budget in budgets),
            loss.of(PLAIN, grid[first:], budgets) ** 2,
        )
        for budgets in itertools.product(BUDGETS, repeat=4 - first)
    }
    for bound in np.arange(10.5 * (4 - first), 220, 5):
        ms, lost = tail.fit(bound)
        assert ms <= bound + 1e-6
        assert (ms, lost) == pytest.approx(every[tuple(tail.latents(bound))])
        assert lost == pytest.approx(min(found for cost, found in every.values() if cost <= ms + 1e-6))
    assert (curve.steps, curve.latents(1e9)) == (4, [16] * 4), "the whole curve is what it was"


def best_distance(pass_ms, deadline):
    try:
        return planner(profile(pass_ms)).plan(Wish(1, 1, deadline_ms=deadline)).distance
    except DeadlineError:
        return math.inf


def test_the_right_one_of_two_runtimes_with_crossing_costs_wins():
    """One is fast at small budgets, the other at large ones: as brute force over both says, at any deadline."""
    steep, level = (4.0, 16.0, 60.0), (14.0, 18.0, 30.0)
    made = planner(profile(steep, "steep"), profile(level, "level"))
    winners = set()
    for deadline in range(10, 260, 7):
        try:
            plan = made.plan(Wish(1, 1, deadline_ms=deadline))
        except DeadlineError:
            continue
        winners.add(plan.runtime)
        alone = {"steep": best_distance(steep, deadline), "level": best_distance(level, deadline)}
        assert plan.distance == min(alone.values()) == alone[plan.runtime]
    assert winners == {"steep", "level"}


def test_of_two_plans_as_good_the_faster_one_is_chosen():
    made = planner(profile((20.0, 40.0, 100.0), "slow"), profile(name="fast"))
    assert made.plan(Wish(1, 1, deadline_ms=10_000)).runtime == "fast"


def test_opening_counts_where_a_plan_pays_for_it():
    quick, ready = profile((5.0, 10.0, 25.0), "quick", open_ms=150), profile(name="ready", open_ms=1)
    wish = Wish(1, 1, deadline_ms=160)
    assert planner(quick, ready).plan(wish).runtime == "quick"
    paying = planner(quick, ready, opening=True).plan(wish)
    assert paying.runtime == "ready"
    best = planner(ready, opening=True).plan(Wish(1, 1, deadline_ms=10_000))
    assert best.expected_ms == pytest.approx(204.4 + 1)


def test_waking_counts_once_a_run():
    plan = planner(profile(waking_ms=7.0)).plan(Wish(1, 1, deadline_ms=10_000))
    assert plan.expected_ms == pytest.approx(204.4 + 7)


@pytest.mark.parametrize("deadline", [40, 90, 130, 400])
def test_a_machine_twice_as_slow_is_one_with_half_the_time(deadline):
    wish = Wish(1, 1, deadline_ms=deadline)
    slow, quick = planner(slowdown=2.0).plan(wish), planner().plan(Wish(1, 1, deadline_ms=deadline / 2))
    assert slow.latents == quick.latents
    assert slow.expected_ms == pytest.approx(2 * quick.expected_ms)
    assert (slow.margin, slow.distance) == (quick.margin, quick.distance)
    assert slow.expected_ms * (1 + slow.margin) <= deadline


def test_an_unsteady_machine_costs_few_steps_more_than_many():
    """Five times 20% for one step, which no other can make up for; half of that for two."""
    rows = planner(deviation=0.2).table(Wish(1, 1, deadline_ms=10_000))
    assert {row.plan.steps: row.plan.margin for row in rows} == pytest.approx({1: 1.0, 2: 0.5, 3: 1 / 3, 4: 0.25})
    drifting = planner(profile(drift=0.5)).table(Wish(1, 1, deadline_ms=10_000))
    assert [row.plan.margin for row in drifting] == pytest.approx([1.2815515655446004 / 2] * 4)


def test_a_planner_learns_from_each_step_by_hand():
    """Four tenths of the way a step, also for how unsteady it was: from 10%, at least, to a jump of 25%, at most."""
    made = planner()
    made.learn(1.5, 0.05, 1)
    assert (made.slowdown, made.deviation) == pytest.approx((1.2, 0.1 + 0.4 * 0.15))
    made.learn(1.2, 0.02, 2)
    assert (made.slowdown, made.deviation) == pytest.approx((1.2, 0.16 - 0.4 * 0.06))
    made.learn(2.2, 0.5, 3)
    assert made.slowdown == pytest.approx(1.2 + (1 - 0.6**3))
    assert made.deviation == pytest.approx(0.136 + 0.4 * (0.5 - 0.136))


def test_a_long_run_tells_nearly_all_of_the_machine_s_speed():
    made = planner()
    made.learn(1.7, 0.1, 40)
    assert made.slowdown == pytest.approx(1.7, rel=1e-6)


def test_curves_that_were_built_ahead_are_not_built_again(monkeypatch):
    """Two runtimes, two guidances, four counts of steps: sixteen a batch."""
    built = []

    class Counted(Curve):
        def __init__(self, *parts):
            built.append(parts)
            super().__init__(*parts)

    monkeypatch.setattr(planning, "Curve", Counted)
    made = planner(profile(), profile(name="b"), quality=table(more=GUIDED))
    made.build(1)
    assert len(built) == 16
    made.build(1)
    made.plan(Wish(1, 2, deadline_ms=100))
    made.table(Wish(1, 1, deadline_ms=300, guidance="none", cap=0.5))
    assert len(built) == 16
    made.build(2)
    made.plan(Wish(2, 2, deadline_ms=300))
    assert len(built) == 32


def test_the_end_of_a_run_takes_four_times_the_solvers_arithmetic():
    """Two samples of half a millisecond each."""
    made = planner()
    assert made.finish_ms(made.plan(Wish(2, 1, deadline_ms=10_000)), 2) == pytest.approx(4)


GUIDED = cells({plan: distance / 3 for plan, distance in DISTANCES.items()}, ("ccfg", 1))
BETTER = cells({plan: d / 3.1 for plan, d in DISTANCES.items() if plan[1] >= 4}, ("ccfg", 4))


def test_guidance_is_chosen_by_its_loss_unless_it_is_demanded():
    """ccfg is three times as good, at 10 ms more a step; a tight deadline has no time for it."""
    made = planner(quality=table(more=GUIDED))
    assert made.plan(Wish(1, 2, deadline_ms=10_000)).guidance == "ccfg"
    assert made.plan(Wish(1, 2, deadline_ms=20)).guidance == "none"
    assert made.plan(Wish(1, 2, deadline_ms=10_000, guidance="none")).guidance == "none"
    with pytest.raises(DeadlineError) as refused:
        made.plan(Wish(1, 2, deadline_ms=20, guidance="ccfg"))
    assert refused.value.nearest.guidance == "ccfg"


def test_guidance_that_the_table_does_not_hold_is_refused_with_those_it_does():
    with pytest.raises(PlanError, match=r"guidance cfg .* which has: none, ccfg;"):
        planner(quality=table(more=GUIDED)).plan(Wish(1, 2, deadline_ms=100, guidance="cfg"))


def test_no_plan_has_a_budget_that_its_guidance_was_not_measured_at():
    """Guided by 4 latents, no step was measured below 4: one latent there is not as good as four."""
    rows = planner(quality=table(more=BETTER)).table(Wish(1, 2, deadline_ms=120))
    assert all(min(row.plan.latents) >= 4 for row in rows if row.plan.weak_latents == 4)


def test_cfg_is_counted_as_one_pass_of_the_double_batch_in_time_and_memory():
    quality = table(more=cells({plan: d / 3 for plan, d in DISTANCES.items()}, ("cfg", 1)))
    made = planner(profile(memory=((1, 100), (2, 130))), quality=quality)
    plan = made.plan(Wish(1, 2, deadline_ms=10_000))
    assert (plan.guidance, plan.memory_bytes) == ("cfg", 130)
    assert plan.expected_ms == pytest.approx(4 * 100.5 + 2 + 0.8)


@pytest.mark.parametrize("cap", [1.0, 0.4, 0.39, 0.2, 0.01])
def test_under_pressure_no_step_is_dearer_than_the_cap(cap):
    """In FLOPs: 100, 200, 500. Below the least budget there is nothing."""
    top = {1.0: 16, 0.4: 4, 0.39: 1, 0.2: 1, 0.01: 1}[cap]
    plan = planner().plan(Wish(1, 1, deadline_ms=10_000, cap=cap))
    assert plan.latents == (top,) * 4
    assert plan.distance == pytest.approx(DISTANCES[4, top])
    assert plan.expected_ms == pytest.approx(4 * step_cost((10.0, 20.0, 50.0), top) + 2.4)


@pytest.mark.parametrize("steps", [1, 4])
def test_heun_evaluates_twice_a_step_but_the_last(steps):
    """2n - 1 passes (test_sampling.py counts them); the arithmetic is small beside them."""
    rows = planner(profile(solver_ms=0.0), quality=table(solver="heun")).table(Wish(1, 1, deadline_ms=10_000))
    plan = next(row.plan for row in rows if row.plan.steps == steps)
    assert plan.latents == (16,) * steps
    assert plan.expected_ms == pytest.approx((2 * steps - 1) * 50 + 0.1 * steps)


def test_heun_costs_more_than_euler():
    rows = planner(profile(solver_ms=0.0), quality=table(solver="heun")).table(Wish(1, 1, deadline_ms=10_000))
    plan = next(row.plan for row in rows if row.plan.steps == 4)
    assert plan.solver == "heun"
    assert 350 <= plan.expected_ms - 0.4 <= 400


def test_one_budget_leaves_only_the_steps_to_choose():
    only = {(steps, 16): 1 / steps for steps in STEPS}
    made = Planner([Costs(profile(), {1: 1, 4: 2, 16: 500})], Loss(table(only)), {16: 500})
    for deadline, steps in ((80, 1), (130, 2), (185, 3), (1000, 4)):
        assert made.plan(Wish(1, 1, deadline_ms=deadline)).latents == (16,) * steps
    with pytest.raises(DeadlineError):
        made.plan(Wish(1, 1, deadline_ms=50))


def test_a_table_with_one_count_of_steps_is_no_reason_for_a_single_step():
    made = planner(quality=table({(8, latents): 0.1 * (1 + 1 / latents) for latents in BUDGETS}))
    assert made.plan(Wish(1, 1, deadline_ms=10_000)).steps == 8


def test_the_table_begins_with_the_plan_and_gives_each_loser_a_reason():
    made = planner(profile(), profile((20.0, 40.0, 100.0), "b"))
    wish = Wish(1, 1, deadline_ms=60)
    rows = made.table(wish)
    assert rows[0].plan == made.plan(wish)
    assert [row.verdict for row in rows].count("chosen") == 1
    assert {(row.plan.runtime, row.plan.steps) for row in rows} == set(itertools.product("ab", STEPS))
    assert len(rows) == 8
    worse = [row.plan.distance for row in rows if row.verdict in ("chosen", "worse")]
    assert worse == sorted(worse)
    for row in rows[1:]:
        fits = row.plan.expected_ms * (1 + row.plan.margin) <= 60
        assert row.verdict == ("worse" if fits else "too slow")


def test_a_wish_without_a_bound_is_refused():
    with pytest.raises(PlanError, match="a deadline, memory or energy"):
        planner().plan(Wish(1, 1))


def test_a_plan_says_itself_in_one_line():
    text = planner().plan(Wish(1, 1, deadline_ms=10_000)).words()
    assert text == "a fp32, 4 steps at 16 latents, none: 204 ms expected, distance 0.258"


def refusal(made, kind=PlanError, **bounds):
    with pytest.raises(PlanError) as refused:
        made.plan(Wish(1, 1, **bounds))
    assert type(refused.value) is kind, refused.value
    return refused.value


@pytest.mark.parametrize("deadline", [0.001, 5, 17.6])
def test_a_deadline_that_no_plan_keeps(deadline):
    """The fastest takes 12.6 ms, 17.64 with its margin; two steps 23.2 with a smaller one, 24.39."""
    error = refusal(planner(), DeadlineError, deadline_ms=deadline)
    assert "no plan keeps" in str(error)
    assert (error.nearest.latents, error.nearest.expected_ms) == ((1,), pytest.approx(12.6))
    found = planner().plan(Wish(1, 1, deadline_ms=12.6 * (1 + ALONE) + 1e-6))
    assert found.latents == error.nearest.latents


def test_the_nearest_plan_is_feasible_when_just_its_time_is_asked_for():
    for least in range(1, 60):
        made = planner(profile((least / 7, 90.0, 99.0), drift=0.05))
        nearest = refusal(made, DeadlineError, deadline_ms=0.1).nearest
        found = made.plan(Wish(1, 1, deadline_ms=nearest.expected_ms * (1 + nearest.margin)))
        assert found.latents == nearest.latents


def test_the_figure_in_the_refusal_is_enough():
    for least in (5.1, 5.3, 5.5, 5.7, 5.9):
        made = planner(profile((least, 90.0, 99.0)))
        needed = re.search(r"needs (\d+) ms", str(refusal(made, DeadlineError, deadline_ms=1)))[1]
        assert made.plan(Wish(1, 1, deadline_ms=float(needed))).steps == 1


def test_the_nearest_of_a_steady_and_an_unsteady_runtime_is_that_which_can_promise_most():
    """10 ms that may be 16 need more time than 11 that are 11."""
    made = planner(profile((10.0, 90.0, 99.0), "unsteady", drift=0.5), profile((11.0, 90.0, 99.0), "steady"))
    assert refusal(made, DeadlineError, deadline_ms=5).nearest.runtime == "steady"


@pytest.mark.parametrize("bound", [0, -5, math.nan, -math.inf])
@pytest.mark.parametrize("kind", ["deadline_ms", "memory_bytes", "joules"])
def test_a_bound_that_is_no_number_above_zero_is_refused(kind, bound):
    with pytest.raises(PlanError, match="number above 0"):
        planner(profile(memory=((1, 100),), watts=1.0)).plan(Wish(1, 1, **{kind: bound}))


LARGE = profile((5.0, 10.0, 25.0), "large", memory=((1, 8_000_000), (2, 9_000_000)))
SMALL = profile(name="small", memory=((1, 2_000_000), (2, 2_500_000)))
UNKNOWN = profile((1.0, 2.0, 5.0), "unknown")


def test_a_memory_bound_is_kept():
    made = planner(LARGE, SMALL, UNKNOWN)
    rows = made.table(Wish(1, 1, memory_bytes=2_000_000))
    assert (rows[0].plan.runtime, rows[0].plan.latents, rows[0].plan.bound_ms) == ("small", (16,) * 4, None)
    verdicts = {row.plan.runtime: row.verdict for row in rows if row.verdict not in ("chosen", "worse")}
    assert verdicts == {"large": "too much memory", "unknown": "memory not measured"}
    assert planner(LARGE, SMALL).plan(Wish(2, 1, memory_bytes=9_000_000)).runtime == "large"
    assert planner(LARGE, SMALL).plan(Wish(2, 1, memory_bytes=8_999_999)).runtime == "small"


def test_a_memory_bound_that_no_plan_keeps():
    made = planner(LARGE, SMALL, UNKNOWN)
    error = refusal(made, memory_bytes=1_999_999)
    assert (error.nearest.runtime, error.nearest.memory_bytes) == ("small", 2_000_000)
    assert "2 MB" in str(error)
    assert made.plan(Wish(1, 1, memory_bytes=error.nearest.memory_bytes)).runtime == "small"


def test_a_memory_bound_where_no_memory_was_measured():
    error = refusal(planner(UNKNOWN), memory_bytes=10**12)
    assert "measured memory" in str(error)
    assert error.nearest is None


def test_an_energy_bound_is_kept_with_its_margin():
    """20 W: 2 J are 100 ms."""
    plan = planner(profile(watts=20.0)).plan(Wish(1, 1, joules=2.0))
    assert plan.expected_ms * (1 + plan.margin) <= 100 < plan.expected_ms * (1 + plan.margin) + 50
    assert plan.joules == pytest.approx(plan.expected_ms * 0.02)
    assert plan.bound_ms == pytest.approx(100)
    both = planner(profile(watts=20.0)).plan(Wish(1, 1, joules=2.0, deadline_ms=60))
    assert both.expected_ms * (1 + both.margin) <= 60


def test_an_energy_bound_without_a_sensor():
    error = refusal(planner(), joules=100.0)
    assert "needs a sensor" in str(error)
    assert error.nearest is None
    rows = planner(profile(name="blind"), profile(name="seeing", watts=5.0)).table(Wish(1, 1, joules=100.0))
    assert rows[0].plan.runtime == "seeing"
    assert {row.verdict for row in rows if row.plan.runtime == "blind"} == {"no energy sensor"}


def test_an_energy_bound_that_no_plan_keeps():
    error = refusal(planner(profile(watts=20.0)), joules=0.01)
    assert "at most 0.01 J" in str(error)
    assert error.nearest.latents == (1,)


def test_the_nearest_plan_is_feasible_when_just_the_energy_that_was_named_is_asked_for():
    made = planner(profile(watts=20.0))
    error = refusal(made, joules=0.01)
    needed = re.search(r"needs ([\d.]+) J", str(error))
    assert needed
    assert needed[1] == "0.378", "12.6 ms and 50% at 20 W are 0.378 J"
    assert made.plan(Wish(1, 1, joules=float(needed[1]))).latents == (1,)


def test_the_nearest_plan_of_an_energy_bound_is_the_most_frugal():
    """12.6 ms at 100 W are 1.3 J; 22.6 ms at 2 W are 0.05."""
    made = planner(
        profile(name="hungry", watts=100.0), profile((20.0, 40.0, 100.0), "frugal", watts=2.0), profile(name="blind")
    )
    assert refusal(made, joules=0.01).nearest.runtime == "frugal"


def test_both_bounds_together():
    """The fast one is too large: what fits in memory must fit in time."""
    made = planner(LARGE, SMALL)
    plan = made.plan(Wish(1, 1, deadline_ms=60, memory_bytes=3_000_000))
    assert plan.runtime == "small"
    assert plan.expected_ms * (1 + plan.margin) <= 60
    nothing = refusal(made, deadline_ms=60, memory_bytes=1_000_000)
    assert nothing.nearest.runtime == "small"


def test_where_both_bounds_together_are_too_much_the_nearest_keeps_one():
    """In 10 ms the small one can do nothing, the large one a step: neither bound alone is at fault."""
    made = planner(LARGE, SMALL)
    error = refusal(made, DeadlineError, deadline_ms=10, memory_bytes=3_000_000)
    assert error.nearest.runtime == "small"
    needed = error.nearest.expected_ms * (1 + error.nearest.margin)
    assert needed > 10
    assert made.plan(Wish(1, 1, deadline_ms=needed + 1e-6, memory_bytes=3_000_000)).runtime == "small"


def test_memory_and_energy_where_only_the_large_one_has_a_sensor():
    seen = profile((5.0, 10.0, 25.0), "large", memory=((1, 8_000_000), (2, 9_000_000)), watts=5.0)
    assert refusal(planner(seen, SMALL), memory_bytes=3_000_000, joules=100.0)


def test_a_precision_whose_pictures_depart_is_taken_where_its_speed_buys_more():
    """Two candidates: float32, and int8 of half the time whose pictures are 0.2 away from float32's."""
    exact = profile()
    quick = replace(profile((5.0, 10.0, 25.0)), precision="int8")
    loose, tight = Wish(1, 2, deadline_ms=1e6), Wish(1, 2, deadline_ms=60)
    free, dear = planner(exact, quick), planner(exact, quick, departures={"int8": 0.2})
    assert free.plan(tight).precision == dear.plan(tight).precision == "int8"
    assert dear.plan(loose).precision == "fp32"
    alone = planner(quick, departures={"int8": 0.2})
    for wish in (loose, tight):
        plain = planner(quick).plan(wish)
        assert alone.plan(wish).distance == pytest.approx(np.hypot(plain.distance, 0.2))
        assert alone.plan(wish).latents == plain.latents
