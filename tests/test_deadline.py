"""`generate(deadline=...)` on a session whose passes take a known time: by a clock that only the session moves, and by
sleeping. The session stands for a device; its field is known."""

import time
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from elit_edge import Manifest, ModelConfig, Session, deadline, generate, generation
from elit_edge.costs import Conditions, Memory, Point, Profile
from elit_edge.errors import Cancelled, DeadlineError, PlanError, RequestError
from elit_edge.generation import images_of
from elit_edge.governor import Governor
from elit_edge.manifest import Budget, Provenance, SamplerDefaults
from elit_edge.planning import Planner, Wish
from elit_edge.profiling import measuring as profiling
from elit_edge.quality import Cell, Loss, QualityTable

NULL, FULL, WEAK = 3, 16, 2
SHAPE = (3, 8, 8)
MODEL = ModelConfig(
    architecture="elit-sit",
    image_size=8,
    in_channels=3,
    patch_size=2,
    hidden_size=4,
    num_heads=2,
    mlp_ratio=4.0,
    head_depth=1,
    core_depth=1,
    tail_depth=0,
    group_size=4,
    num_classes=3,
    class_names=("sun", "moon", "star"),
)
MANIFEST = Manifest(
    name="pixels",
    model=MODEL,
    sample_space="pixels",
    ladder=tuple(Budget(latents=j, velocity_flops=1000 * (j + 4)) for j in range(1, FULL + 1)),
    graphs=(),
    files={},
    sampler=SamplerDefaults(solver="euler", steps=4, guidance="ccfg", scale=1.5, weak_latents=WEAK),
    verification=None,
    provenance=Provenance(
        source="none", source_sha256="0" * 64, elit_edge="0", torch="0", onnx_ir="1", onnxscript="1", opset=23
    ),
)
PATTERN = np.random.default_rng(1).standard_normal(SHAPE)


def pass_s(latents, batch=1):
    """5 ms with one latent, 20 with sixteen; in proportion to the batch."""
    return batch * (latents + 4) / 1e3


def a_step_s(latents):
    return pass_s(latents) + pass_s(WEAK)


LEAST_S = a_step_s(WEAK)
"""The published figures, which stand in for a table here, know an eighth of the latents as the least: 12 ms a step."""
CONDITION_S = 0.0002
CHECK_PASSES = 6
"""Of the spot check, at half of the budgets, 9 latents: a cold one and five that count."""
CHECK_S = CHECK_PASSES * pass_s(9) + CONDITION_S
PROFILE = Profile(
    runtime="field",
    precision="fp32",
    version="1",
    threads=None,
    open_ms=0.0,
    points=tuple(
        Point(latents=latents, batch=batch, first_ms=ms, median_ms=ms, p90_ms=ms, n=7)
        for latents in (1, FULL)
        for batch in (1, 2)
        for ms in [1e3 * pass_s(latents, batch)]
    ),
    conditions=(Conditions(rows=2, median_ms=1e3 * CONDITION_S), Conditions(rows=64, median_ms=1e3 * CONDITION_S)),
    solver_ms=0.01,
    waking_ms=0.0,
    drift=0.02,
    memory=(Memory(batch=1, peak_bytes=1_000_000),),
    watts=None,
)


class TimedSession(Session):
    """Takes its time with `take(seconds)`; `slowness(passes done)` is a factor."""

    def __init__(self, take, *, profile=PROFILE, slowness=lambda _: 1.0, manifest=MANIFEST, speed=1.0):
        super().__init__(manifest, "field", "fp32")
        self.take, self.slowness, self.profile, self.speed = take, slowness, profile, speed
        self.conditions, self.passes, self.times = [], [], []

    def condition(self, t, y):
        self.conditions.append((t, y))
        self.take(CONDITION_S)
        modulations = np.zeros((len(t), MODEL.modulation_size), np.float32)
        modulations[:, 0], modulations[:, 1] = t, y
        return modulations

    def velocity_from(self, x, modulations, latents):
        t, y = modulations[:, 0, None, None, None], modulations[:, 1].astype(int)
        self.passes.append((y.tolist(), latents))
        self.times.append(float(t.flat[0]))
        self.take(pass_s(latents, len(x)) * self.slowness(len(self.passes)) / self.speed)
        v = 0.4 * x + np.sin(3 * t) + PATTERN * (y[:, None, None, None] + 1) * (latents + 3) / 20
        return v.astype(np.float32)

    def close(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until someone takes time; of `generate`, of measuring and of the governor alike."""
    now = [100.0]

    def take(seconds):
        now[0] += seconds

    fake = SimpleNamespace(perf_counter=lambda: now[0], sleep=take)
    for module in (generation, deadline, profiling):
        monkeypatch.setattr(module, "time", fake)
    monkeypatch.setitem(Governor.__init__.__kwdefaults__, "clock", fake.perf_counter)
    return SimpleNamespace(take=take, now=lambda: now[0])


@pytest.mark.parametrize("seconds", [0.019, 0.2, 0.5, 1.0, 2.0])
def test_a_deadline_is_kept_and_used_and_reported(clock, seconds):
    """From a second on there is time for a spot check first, and 1.5% of 1 to 10 ms stay free at the end."""
    begun = clock.now()
    out = generate(TimedSession(clock.take), ["sun"], deadline=seconds)
    elapsed = clock.now() - begun
    report = out.deadline
    assert elapsed <= seconds - min(max(0.015 * seconds, 0.001), 0.01)
    assert report.kept
    assert report.elapsed_ms == pytest.approx(1e3 * elapsed)
    assert report.deadline_ms == pytest.approx(1e3 * seconds)
    assert report.plan.bound_ms == pytest.approx(1e3 * (seconds - (CHECK_S if seconds >= 1 else 0)))
    assert (report.plan.runtime, report.plan.guidance, report.plan.weak_latents) == ("field", "ccfg", WEAK)
    assert not report.landed
    assert report.distance <= report.plan.distance + 1e-9
    assert len(out.step_ms) == len(out.latents) == report.plan.steps
    most = 40 * a_step_s(FULL)
    assert elapsed > 0.85 * min(seconds, most) or seconds < 0.05
    assert out.step_ms == pytest.approx([1e3 * a_step_s(latents) for latents in out.latents])
    assert np.isfinite(out.samples).all()


@pytest.mark.parametrize("seconds", [0.034, 0.05])
def test_a_plan_of_two_or_three_steps_is_followed_on_a_steady_machine(clock, seconds):
    report = generate(TimedSession(clock.take), ["sun"], deadline=seconds).deadline
    assert report.plan.steps in (2, 3)
    assert not report.landed
    assert report.distance <= report.plan.distance * 1.01


def test_a_session_that_is_slower_than_its_profile_is_found_out_before_it_is_planned_for(clock):
    """Half as fast: the first plan says so, and is kept."""
    session = TimedSession(clock.take, speed=0.5)
    out = generate(session, ["sun"], deadline=1.5)
    assert [one for one in session.passes[:CHECK_PASSES] if one != ([0], 9)] == []
    assert out.deadline.plan.expected_ms == pytest.approx(sum(out.step_ms), rel=0.05)
    assert out.deadline.kept
    assert "behind time" not in {change.why for change in out.deadline.changes}


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.6, 0.7, 1.0, 3.0])
def test_a_spot_check_takes_a_tenth_of_the_first_deadline_at_most_and_none_of_the_next(clock, seconds):
    session = TimedSession(clock.take)
    generate(session, ["moon"], deadline=seconds)
    checked = [latents for labels, latents in session.passes if labels == [0]]
    assert sum(map(pass_s, checked)) <= 0.1 * seconds
    generate(session, ["moon"], deadline=3.0)
    assert len([labels for labels, _ in session.passes if labels == [0]]) == len(checked)


@pytest.mark.parametrize("profile", [PROFILE, None])
def test_a_plan_s_bound_is_the_first_deadline_of_a_session_too(clock, profile):
    """A plan for 300 ms: 30 for the passes of a check or of measuring, beside the least there is."""
    plan = Planner.of(MANIFEST, [PROFILE]).plan(Wish(1, 2, deadline_ms=300))
    session, begun, first = TimedSession(clock.take, profile=profile), clock.now(), []
    generate(session, ["moon"], plan=plan, progress=lambda _: first.append(clock.now() - begun))
    assert first[0] <= 0.15 + a_step_s(plan.latents[0])
    assert sum(pass_s(latents) for labels, latents in session.passes if labels == [0]) <= (0.03 if profile else 0.15)


def test_curves_are_built_before_the_time_left_is_read(clock, monkeypatch):
    monkeypatch.setattr(Planner, "build", lambda *_: clock.take(0.1))
    report = generate(TimedSession(clock.take), ["sun"], deadline=0.5).deadline
    assert report.plan.bound_ms == pytest.approx(400)
    assert report.kept


def test_the_next_plan_knows_what_the_last_run_was_like(clock):
    """The same deadline on a machine that was found to be half as fast, too soon for a spot check."""
    session = TimedSession(clock.take, speed=0.5)
    first, second = (generate(session, ["sun"], deadline=0.5).deadline for _ in range(2))
    assert "behind time" in {change.why for change in first.changes}
    assert "behind time" not in {change.why for change in second.changes}
    assert second.plan.distance > first.plan.distance
    assert second.kept


def test_without_a_deadline_nothing_is_reported(clock):
    assert generate(TimedSession(clock.take), ["sun"]).deadline is None


def test_more_time_is_used_for_a_better_plan(clock):
    session = TimedSession(clock.take)
    found = [generate(session, [0], deadline=seconds).deadline.distance for seconds in (0.1, 0.3, 0.6, 2.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_a_machine_that_slows_down_in_the_middle_is_in_time_all_the_same(clock):
    session = TimedSession(clock.take, slowness=lambda done: 2.0 if done > 15 else 1.0)
    begun = clock.now()
    out = generate(session, ["sun"], deadline=0.5)
    assert clock.now() - begun <= 0.5
    assert out.deadline.kept
    assert "behind time" in {change.why for change in out.deadline.changes}
    assert out.deadline.distance > out.deadline.plan.distance


def test_a_run_that_lands_gives_the_picture_that_its_last_step_predicted(clock):
    """A hundred times slower from the eleventh step on: there is time for that one step, and for none after it."""
    session = TimedSession(clock.take, slowness=lambda done: 100.0 if done > CHECK_PASSES + 20 else 1.0)
    seen = []
    out = generate(session, ["sun", "star"], deadline=1.0, progress=seen.append, preview_every=1)
    assert out.deadline.landed
    assert not out.deadline.kept
    assert len(out.latents) == len(seen) == len(out.step_ms) == 11
    assert out.samples.shape == (2, *SHAPE)
    assert np.isfinite(out.samples).all()
    np.testing.assert_array_equal(out.images, seen[-1].preview)
    np.testing.assert_array_equal(out.images, images_of(out.samples, MANIFEST))
    assert out.deadline.distance > out.deadline.plan.distance


def test_a_run_may_land_within_its_deadline(clock):
    """The weak pass of the 20th step holds the run up until 20 ms before its end: a step of 12 would hardly fit."""
    begun = clock.now()

    def stalled(done):
        return max(1.0, (begun + 0.58 - clock.now()) / pass_s(WEAK)) if done == 40 else 1.0

    session = TimedSession(clock.take, slowness=stalled)
    out = generate(session, ["sun"], deadline=0.6)
    assert out.deadline.landed
    assert out.deadline.kept
    assert clock.now() - begun <= 0.6
    assert len(out.latents) == 20 < out.deadline.plan.steps


@pytest.mark.parametrize("seconds", [1e-9, 0.001, 0.99 * LEAST_S, 0.017])
def test_a_deadline_that_cannot_be_kept_is_refused_before_anything_is_computed(clock, seconds):
    """12 ms, 50% more for a step that no governor can help, and the conditions: 18.4."""
    session = TimedSession(clock.take)
    with pytest.raises(DeadlineError, match=r"no plan keeps \d+ ms here; the fastest needs 19 ms") as refused:
        generate(session, ["sun"], deadline=seconds)
    assert session.passes == session.conditions == []
    assert refused.value.nearest.latents == (WEAK,)
    assert generate(session, ["sun"], deadline=0.019).latents == (WEAK,)


def test_a_session_that_was_not_measured_computes_nothing_but_its_measuring_before_it_refuses(clock):
    session = TimedSession(clock.take, profile=None)
    with pytest.raises(DeadlineError):
        generate(session, ["sun"], deadline=0.02)
    measured = len(session.passes)
    assert measured > 0
    assert session.profile is not None
    with pytest.raises(DeadlineError):
        generate(session, ["sun"], deadline=0.002)
    assert len(session.passes) == measured, "measured once"


def test_the_refusal_names_the_deadline_that_was_asked_for(clock):
    with pytest.raises(DeadlineError, match=r"20 ms.* after measuring"):
        generate(TimedSession(clock.take, profile=None), ["sun"], deadline=0.02)


@pytest.mark.parametrize("seconds", [0, 0.0, -1, -0.001, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("profile", [None, PROFILE])
def test_a_deadline_that_is_no_time_is_refused_before_anything_is_measured(clock, seconds, profile):
    session = TimedSession(clock.take, profile=profile)
    with pytest.raises(RequestError, match="number of seconds above 0"):
        generate(session, ["sun"], deadline=seconds)
    assert session.passes == session.conditions == []


@pytest.mark.parametrize(
    "given", [{"steps": 3}, {"latents": 4}, {"latents": [4]}, {"solver": "heun"}, {"weak_latents": 2}]
)
def test_what_a_plan_decides_is_refused_beside_a_deadline(clock, given):
    session = TimedSession(clock.take)
    with pytest.raises(RequestError, match=f"{next(iter(given))} beside a deadline"):
        generate(session, ["sun"], deadline=1.0, **given)
    assert session.passes == session.conditions == []


def test_a_plan_of_a_planner_is_used(clock):
    plan = Planner.of(MANIFEST, [PROFILE]).plan(Wish(2, 3, deadline_ms=300))
    session = TimedSession(clock.take)
    generate(session, ["sun"], deadline=0.2)  # the first run of a session has its check
    begun = clock.now()
    out = generate(session, ["sun", "moon"], plan=plan)
    assert out.deadline.plan is plan
    assert out.deadline.deadline_ms == 300
    assert clock.now() - begun <= 0.3
    assert len(out.latents) == plan.steps
    assert (out.solver, out.guidance.kind, out.guidance.weak_latents) == ("euler", "ccfg", WEAK)
    assert all(found >= planned for found, planned in zip(out.latents, plan.latents, strict=True))


def test_guidance_beside_a_plan_is_refused(clock):
    plan = Planner.of(MANIFEST, [PROFILE]).plan(Wish(1, 2, deadline_ms=300))
    session = TimedSession(clock.take)
    with pytest.raises(RequestError, match="guidance beside"):
        generate(session, ["sun"], plan=plan, guidance="ccfg")
    assert session.passes == session.conditions == []


def test_a_plan_beside_a_longer_deadline_is_improved(clock):
    plan = Planner.of(MANIFEST, [PROFILE]).plan(Wish(1, 2, deadline_ms=400))
    out = generate(TimedSession(clock.take), ["sun"], plan=plan, deadline=2.0)
    assert out.deadline.deadline_ms == 2000
    assert out.deadline.kept
    assert sum(out.latents) > sum(plan.latents)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_plan_within_memory_alone_is_followed_without_a_clock(clock, share):
    """Also under pressure: there is no time to hold it against."""
    plan = Planner.of(MANIFEST, [PROFILE]).plan(Wish(1, 2, memory_bytes=2_000_000))
    assert plan.bound_ms is None
    seen = []
    out = generate(TimedSession(clock.take), ["sun"], plan=plan, pressure=lambda: (share, "hot"), progress=seen.append)
    assert out.deadline is None
    assert out.latents == plan.latents
    assert [(p.step, p.steps) for p in seen] == [(i, plan.steps) for i in range(1, plan.steps + 1)]


def test_a_plan_for_another_runtime_is_refused_before_any_pass_but_those_of_the_check(clock):
    other = msgspec.structs.replace(PROFILE, runtime="other")
    plan = Planner.of(MANIFEST, [other]).plan(Wish(1, 2, deadline_ms=300))
    session = TimedSession(clock.take)
    with pytest.raises(PlanError, match="other fp32"):
        generate(session, ["moon"], plan=plan)
    assert all(one == ([0], 9) for one in session.passes)
    assert len(session.passes) <= CHECK_PASSES


@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.0, 3.0])
def test_measuring_keeps_to_its_share_of_the_deadline(clock, seconds):
    """A tenth of the deadline for the rounds, and as much again at most for the first passes."""
    session = TimedSession(clock.take, profile=None, speed=10.0)
    first = []

    def watch(progress):
        if not first:
            first.append(progress.elapsed_ms - 1e3 * a_step_s(progress.latents) / 10)

    generate(session, ["sun"], deadline=seconds, progress=watch)
    assert first[0] <= 0.2 * 1e3 * seconds


@pytest.mark.parametrize("seconds", [0.6, 1.0, 3.0])
def test_a_session_without_a_profile_measures_itself(clock, seconds):
    """Both ends of the ladder are among what was measured, or else all budgets would seem to cost the same."""
    session = TimedSession(clock.take, profile=None, speed=10.0)
    begun = clock.now()
    out = generate(session, ["sun"], deadline=seconds)
    assert clock.now() - begun <= seconds
    assert {1, FULL} <= {point.latents for point in session.profile.points}
    assert out.deadline.kept
    again = TimedSession(clock.take, profile=session.profile, speed=10.0)
    assert generate(again, ["sun"], deadline=seconds).deadline.kept


def test_even_a_slow_session_learns_that_small_budgets_are_faster(clock):
    """20 ms for the full budget, half a second in all: there is no time to measure much."""
    session = TimedSession(clock.take, profile=None)
    begun = clock.now()
    out = generate(session, ["sun"], deadline=0.8)
    assert clock.now() - begun <= 0.8
    assert len(set(out.latents)) >= 1
    assert {1, FULL} <= {point.latents for point in session.profile.points}
    assert max(out.latents) < FULL, "ten steps at full budget are not the best of what is left"


def test_repeated_labels_are_one_batch_and_one_condition_a_time(clock):
    session = TimedSession(clock.take)
    begun = clock.now()
    out = generate(session, ["sun", 0, "star", "sun"], deadline=1.0)
    assert clock.now() - begun <= 1.0
    assert out.labels == (0, 0, 2, 0)
    assert session.passes[CHECK_PASSES] == ([0, 0, 2, 0], out.latents[0])
    assert session.passes[CHECK_PASSES + 1] == ([NULL] * 4, WEAK)
    _, y = session.conditions[1]
    assert set(y.tolist()) == {0, 2, NULL}
    assert len(y) in (3 * out.deadline.plan.steps, 3 * out.deadline.plan.steps + 3)
    assert len(session.conditions) == 2, "one for the spot check, one for the run"


def guided_table():
    """Guided by 4 latents a little better than by 1."""
    cells = tuple(
        Cell(
            steps=steps,
            latents=latents,
            guidance="ccfg",
            weak_latents=weak,
            distance=distance,
            low=distance,
            high=distance,
            frechet=None,
        )
        for steps in (1, 2, 4, 8, 16, 32)
        for latents in (1, 2, 4, 8, 16)
        for weak in (4, 1)
        if latents >= weak
        for distance in [1 / steps + 0.05 / latents + (0.01 if weak == 1 else 0.0)]
    )
    return QualityTable(
        reference=cells[-1],
        solver="euler",
        scale=1.5,
        pictures=8,
        seed=0,
        features_sha256=None,
        cells=cells,
    )


def test_the_reported_distance_is_that_of_the_steps_as_they_were_run(clock):
    """Q of each step with its own weak budget, times its length."""
    manifest = msgspec.structs.replace(MANIFEST, quality=guided_table())
    session = TimedSession(clock.take, manifest=manifest, slowness=lambda done: 2.5 if 3 < done < 16 else 1.0)
    out = generate(session, ["sun"], deadline=0.5)
    weak = [latents for labels, latents in session.passes if labels == [NULL]]
    assert set(weak) == {1, 4}
    lengths = -np.diff([*session.times[::2], 0.0])
    loss = Loss(guided_table())
    parts = [
        length * loss.squared(("ccfg", below), 1 / length, latents)
        for length, below, latents in zip(lengths, weak, out.latents, strict=True)
    ]
    assert out.deadline.distance == pytest.approx(float(np.sqrt(sum(parts))), rel=1e-4)


def test_progress_tells_how_many_steps_there_will_be(clock):
    seen = []
    out = generate(TimedSession(clock.take), ["sun"], deadline=0.5, progress=seen.append)
    steps = out.deadline.plan.steps
    assert [(p.step, p.steps) for p in seen] == [(i, steps) for i in range(1, steps + 1)]
    assert [p.latents for p in seen] == list(out.latents)


def test_progress_follows_the_governor_when_it_leaves_out_steps(clock):
    seen = []
    session = TimedSession(clock.take, slowness=lambda done: 4.0 if done > 10 else 1.0)
    out = generate(session, ["sun"], deadline=0.6, progress=seen.append)
    assert [p.step for p in seen] == list(range(1, len(out.latents) + 1))
    assert len(out.latents) < out.deadline.plan.steps
    assert all(p.step <= p.steps <= out.deadline.plan.steps for p in seen)
    assert out.deadline.landed or seen[-1].steps == len(out.latents)


def test_a_run_against_the_clock_can_be_cancelled(clock):
    session, seen = TimedSession(clock.take), []
    with pytest.raises(Cancelled, match="cancelled after 3 of"):
        generate(session, ["sun"], deadline=1.0, progress=seen.append, cancelled=lambda: len(seen) == 3)
    assert len(seen) == 3


def test_under_pressure_no_step_is_dearer_than_the_share(clock):
    """Half of 20 000 FLOPs: six latents."""
    out = generate(TimedSession(clock.take), ["sun"], deadline=2.0, pressure=lambda: (0.5, "hot"))
    assert max(out.latents) <= 6
    assert out.deadline.kept
    assert max(generate(TimedSession(clock.take), ["sun"], deadline=2.0).latents) == FULL


def test_the_same_seed_and_the_same_machine_make_the_same_picture(clock):
    one, two = (generate(TimedSession(clock.take), ["sun"], deadline=0.4, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one.samples, two.samples)


def test_by_the_real_clock():
    """Passes that sleep. Whoever shares this machine may hold a step up; then the run is late by that step alone."""
    session = TimedSession(time.sleep)
    late = []
    for run in range(8):
        seconds = 0.1 + 0.06 * run
        begun = time.perf_counter()
        out = generate(session, ["sun"], deadline=seconds)
        late.append(time.perf_counter() - begun - seconds)
        assert out.deadline.elapsed_ms == pytest.approx(1e3 * (late[-1] + seconds), abs=20)
        assert late[-1] <= max(out.step_ms) / 1e3
    assert sum(seconds <= 0.002 for seconds in late) >= 4, late
