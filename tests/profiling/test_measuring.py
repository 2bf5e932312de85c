"""Measuring sessions whose passes take a known time, by a clock that only they and their pauses move."""

from types import SimpleNamespace

import numpy as np
import pytest

from elit_edge import Manifest, ModelConfig, Session
from elit_edge.costs import Costs
from elit_edge.manifest import Budget, Provenance, SamplerDefaults
from elit_edge.profiling import measuring
from elit_edge.profiling.measuring import measure, peak_bytes, spot_check

FULL = 16
FLOPS = {latents: 1000 * (latents + 4) for latents in range(1, FULL + 1)}
MANIFEST = Manifest(
    name="nothing",
    model=ModelConfig(
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
    ),
    sample_space="pixels",
    ladder=tuple(Budget(latents=latents, velocity_flops=flops) for latents, flops in FLOPS.items()),
    graphs=(),
    files={},
    sampler=SamplerDefaults(solver="euler", steps=4, guidance="none", scale=1.0, weak_latents=1),
    verification=None,
    provenance=Provenance(
        source="none", source_sha256="0" * 64, elit_edge="0", torch="0", onnx_ir="1", onnxscript="1", opset=23
    ),
)


class Clock:
    """Seconds since it was made, and whether someone slept since that was last asked."""

    def __init__(self):
        self.now, self.slept = 0.0, False

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept = True


class Idle(Session):
    """Computes nothing. A sample takes (J + 4) ms / speed; after a pause a pass takes `waking_s` more, its first one
    of all `cold_s` more."""

    def __init__(self, clock, speed=1.0, *, waking_s=0.0, cold_s=0.0):
        super().__init__(MANIFEST, "idle", "fp32")
        self.clock, self.speed, self.waking_s, self.cold_s = clock, speed, waking_s, cold_s
        self.passes = []

    def condition(self, t, _y):
        self.clock.now += 1e-4
        return np.zeros((len(t), MANIFEST.model.modulation_size), np.float32)

    def velocity_from(self, x, _modulations, latents):
        self.clock.now += len(x) * (latents + 4) / 1e3 / self.speed
        self.clock.now += (self.waking_s if self.clock.slept else 0) + (0 if self.passes else self.cold_s)
        self.clock.slept = False
        self.passes.append((latents, len(x)))
        return np.zeros_like(x)

    def close(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=made.perf_counter, sleep=made.sleep))
    return made


def shapes(profile):
    return [(point.latents, point.batch) for point in profile.points]


def test_what_matters_most_is_measured_first(clock):
    """The ends of the ladder, alone and in pairs; its middle, and those of its halves; larger batches; the rest."""
    profile = measure(Idle(clock, 1000), "1")
    assert shapes(profile)[:10] == [
        *[(16, 1), (1, 1), (16, 2), (1, 2)],
        *[(8, 1), (4, 1), (12, 1), (8, 2), (4, 2), (12, 2)],
    ]
    assert shapes(profile)[10:16] == [(16, 4), (1, 4), (8, 4), (16, 8), (1, 8), (8, 8)]
    assert len(shapes(profile)) == len(set(shapes(profile))) == 2 * FULL + 6
    assert {point.n for point in profile.points} == {7}


def test_a_very_slow_session_is_measured_at_both_ends_of_its_ladder_twice(clock):
    """20 s a pass of the full budget, for a second and a half."""
    session = Idle(clock, 0.001)
    profile = measure(session, "1")
    assert shapes(profile) == [(16, 1), (1, 1)]
    assert [(point.median_ms, point.n) for point in profile.points] == [
        (pytest.approx(20_000), 2),
        (pytest.approx(5_000), 2),
    ]
    assert {batch for _, batch in session.passes} == {1}


def test_a_faster_session_is_measured_at_no_fewer_points_and_each_as_it_is(clock):
    counts = []
    for speed in (0.1, 1, 10, 100):
        profile = measure(Idle(clock, speed), "1")
        counts.append(len(profile.points))
        for point in profile.points:
            assert point.median_ms == pytest.approx(point.batch * (point.latents + 4) / speed)
        assert profile.drift == pytest.approx(0, abs=1e-9)
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_the_first_pass_is_kept_apart(clock):
    first, *others = measure(Idle(clock, cold_s=3.0), "1").points
    assert (first.first_ms, first.median_ms) == (pytest.approx(3020), pytest.approx(20))
    assert all(point.first_ms == pytest.approx(point.median_ms) for point in others)


@pytest.mark.parametrize("waking_s", [0.0, 0.003, 0.05])
def test_waking_is_what_a_pass_takes_longer_after_a_pause(clock, waking_s):
    assert measure(Idle(clock, waking_s=waking_s), "1").waking_ms == pytest.approx(1e3 * waking_s, abs=1e-6)


def test_a_session_that_is_faster_after_a_pause_has_nothing_to_wake(clock):
    assert measure(Idle(clock, waking_s=-0.002), "1").waking_ms == 0


@pytest.mark.parametrize("speed", [0.5, 1.0, 4.0])
def test_a_spot_check_says_how_much_slower_a_pass_is_than_the_profile(clock, speed):
    """Its own first pass, which is cold, does not count."""
    costs = Costs(measure(Idle(clock), "1"), FLOPS)
    session = Idle(clock, speed, cold_s=1.0)
    assert spot_check(session, costs, 1000) == pytest.approx(1 / speed)


@pytest.mark.parametrize("spare_ms", [0, 1, 10, 30, 50, 60, 70, 100, 1000, np.inf])
def test_a_spot_check_is_not_made_where_it_is_too_dear(clock, spare_ms):
    """A pass of half the budget takes 12 or 13 ms, of which a few are needed."""
    costs = Costs(measure(Idle(clock), "1"), FLOPS)
    session, begun = Idle(clock), clock.now
    ratio = spot_check(session, costs, spare_ms)
    assert 1e3 * (clock.now - begun) <= spare_ms
    if spare_ms < 3 * 12:
        assert ratio is None
    if spare_ms >= 100:
        assert ratio == pytest.approx(1)
    if ratio is None:
        assert session.passes == []
        assert clock.now == begun


def test_the_peak_of_this_process_holds_what_it_holds():
    """On Linux and macOS, where the tests run."""
    held = np.ones(8 << 20)
    assert peak_bytes() >= held.nbytes
