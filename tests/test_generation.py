"""Generation: against the authors' samples on the tiny bundle, and in detail on sessions whose field is known."""

from functools import partial
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from elit_edge import Bundle, Manifest, ModelConfig, Session, generate, generation
from elit_edge.errors import BudgetError, Cancelled, PictureError, RequestError
from elit_edge.generation import images_of
from elit_edge.manifest import Budget, Provenance, SamplerDefaults
from elit_edge.noise import NoiseStream
from elit_edge.runtimes.contract import Missing
from elit_edge.runtimes.registry import all_runtimes

NAMES = ("sun", "moon", "star")
NULL = 3
FULL = 16
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
    class_names=NAMES,
)
MANIFEST = Manifest(
    name="pixels",
    model=MODEL,
    sample_space="pixels",
    ladder=tuple(Budget(latents=j, velocity_flops=1000 * j) for j in range(1, FULL + 1)),
    graphs=(),
    files={},
    sampler=SamplerDefaults(solver="heun", steps=4, guidance="ccfg", scale=1.5, weak_latents=2),
    verification=None,
    provenance=Provenance(
        source="none", source_sha256="0" * 64, elit_edge="0", torch="0", onnx_ir="1", onnxscript="1", opset=23
    ),
)
PATTERN = np.random.default_rng(1).standard_normal(SHAPE)
PICTURES = np.random.default_rng(2).uniform(-1, 1, (NULL + 1, *SHAPE))
NOISE = np.random.default_rng(3).standard_normal((5, *SHAPE))


class FieldSession(Session):
    """A session over a field v(x, t, y, latents) in closed form; it keeps what it was asked."""

    def __init__(self, field, manifest=MANIFEST):
        super().__init__(manifest, "field", "fp32")
        self.field = field
        self.conditions = []
        """(t, y) of each call."""
        self.passes = []
        """(labels, latents) of each call."""

    def condition(self, t, y):
        assert (t.dtype, y.dtype) == (np.float32, np.int64)
        self.conditions.append((t, y))
        modulations = np.zeros((len(t), MODEL.modulation_size), np.float32)
        modulations[:, 0], modulations[:, 1] = t, y
        return modulations

    def velocity_from(self, x, modulations, latents):
        assert (x.dtype, modulations.dtype) == (np.float32, np.float32)
        assert modulations.shape == (len(x), MODEL.modulation_size)
        t, y = modulations[:, 0], modulations[:, 1].astype(int)
        self.passes.append((y.tolist(), latents))
        return self.field(x, t[:, None, None, None], y, latents).astype(np.float32)

    def close(self):
        pass


def curved(x, t, y, latents):
    """Depends on all it is given, on label and budget together, so that no pass can be taken for another."""
    return 0.4 * x + np.sin(3 * t) + PATTERN * (y[:, None, None, None] + 1) * (latents + 3) / 20


def straight(x, t, y, latents):
    """Leads to the picture of the label in a straight line."""
    return (x - PICTURES[y]) / t


def still(x, _t, _y, _latents):
    return np.zeros_like(x)


def euler(velocity, steps, start):
    """The samples of a guided field (x, t, step) by the definition of Euler's method."""
    x = start
    for i in range(steps):
        x = x - velocity(x, 1 - i / steps, i) / steps
    return x


def pixels(samples):
    """[-1, 1] -> 0..255, channels last."""
    return np.clip(np.round((np.moveaxis(samples, 1, -1) + 1) / 2 * 255), 0, 255).astype(np.uint8)


@pytest.fixture
def bare():
    """No guidance: one pass an evaluation."""
    return partial(generate, guidance="none", solver="euler")


@pytest.fixture(scope="module")
def tiny(tiny_bundle_path):
    with Bundle.open(tiny_bundle_path).prepare("onnxruntime", threads=1) as session:
        yield session


AUTHORS = {
    "euler10_b1": {"solver": "euler", "steps": 10, "latents": 16, "guidance": "none"},
    "euler10_b025": {"solver": "euler", "steps": 10, "latents": 4, "guidance": "none"},
    "heun6_b05": {"solver": "heun", "steps": 6, "latents": 8, "guidance": "none"},
    "euler10_cfg3_b1": {"solver": "euler", "steps": 10, "latents": 16, "guidance": "cfg", "scale": 3},
    "euler10_ccfg3_b1_u00625": {
        "solver": "euler",
        "steps": 10,
        "latents": 16,
        "guidance": "ccfg",
        "scale": 3,
        "weak_latents": 1,
    },
    "euler10_autog3_b1_u00625": {
        "solver": "euler",
        "steps": 10,
        "latents": 16,
        "guidance": "autoguidance",
        "scale": 3,
        "weak_latents": 1,
    },
    "euler10_ccfg3_interval_0.3_0.8": {
        "solver": "euler",
        "steps": 10,
        "latents": 16,
        "guidance": "ccfg",
        "scale": 3,
        "weak_latents": 1,
        "interval": (0.3, 0.8),
    },
}


def test_every_sample_of_the_authors_is_compared(expected):
    samples = {name.removeprefix("sampler_") for name in expected if name.startswith("sampler_")}
    assert samples - {"x", "y"} == set(AUTHORS)


@pytest.mark.parametrize("name", AUTHORS)
def test_samples_are_the_authors(tiny, expected, name):
    out = generate(tiny, expected["sampler_y"].tolist(), noise=expected["sampler_x"], **AUTHORS[name])
    assert np.abs(out.samples - expected[f"sampler_{name}"]).max() < 1e-4


def test_every_runtime_makes_the_same_picture_of_a_seed(tiny_bundle_path):
    bundle = Bundle.open(tiny_bundle_path)
    ready = [name for name, runtime in all_runtimes().items() if not isinstance(runtime.check(), Missing)]
    made = {}
    for name in ready:
        with bundle.prepare(name, threads=1) as session:
            made[name] = generate(session, [3, 7], steps=6, latents=5, solver="heun", seed=11).samples
    if len(made) < 2:
        pytest.skip(f"only {ready} is ready here")
    first, *others = made.values()
    for other in others:
        assert np.abs(first - other).max() < 1e-4
        one, two = (images_of(samples[:, :3], MANIFEST).astype(int) for samples in (first, other))
        assert np.abs(one - two).max() <= 1


def test_a_seed_makes_the_same_picture_alone_and_in_a_batch(tiny):
    together = generate(tiny, [4, 4, 8], steps=3, seed=5).samples
    alone = generate(tiny, [4], steps=3, seed=5).samples
    assert np.abs(together[0] - alone[0]).max() < 1e-4
    assert np.abs(together[1] - alone[0]).max() > 0.1, "pictures of a batch start from noise of their own"


@pytest.mark.parametrize("solver", ["euler", "euler-maruyama"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_picture(solver):
    again = partial(generate, FieldSession(curved), ["sun", "sun"], solver=solver, steps=5)
    one, two, other = again(seed=8), again(seed=8), again(seed=9)
    np.testing.assert_array_equal(one.samples, two.samples)
    assert np.abs(one.samples - other.samples).max() > 0.1


def test_the_start_of_a_run_is_the_noise_of_its_seed():
    noise = NoiseStream(21, 2).draw(SHAPE)
    drawn = generate(FieldSession(curved), [0, 1], steps=3, seed=21)
    given = generate(FieldSession(curved), [0, 1], steps=3, noise=noise)
    np.testing.assert_array_equal(drawn.samples, given.samples)
    assert (drawn.seed, given.seed) == (21, None)


def test_the_stochastic_solver_draws_its_noise_from_the_same_stream(bare):
    """From a zero field: t = 1, 0.04, 0; x1 = x - 0.96 (x·1/1) + sqrt(2 · 0.96) z, x0 = x1 - 0.04 · x1."""
    stream = NoiseStream(4, 1)
    start, z = stream.draw(SHAPE), stream.draw(SHAPE)
    middle = start - 0.96 * start + np.sqrt(2 * 0.96) * z
    out = bare(FieldSession(still), [0], solver="euler-maruyama", steps=2, seed=4)
    np.testing.assert_allclose(out.samples, middle - 0.04 * middle, rtol=1e-6)


WEAK = {
    "cfg": ([NULL, NULL, NULL], 9),
    "ccfg": ([NULL, NULL, NULL], 3),
    "autoguidance": ([2, 0, 2], 3),
}
"""Labels and budget of the weak pass for the labels 2, 0, 2 at budget 9, weak budget 3."""


@pytest.mark.parametrize("kind", WEAK)
@pytest.mark.parametrize("scale", [1.25, 4.0])
def test_guidance_leads_away_from_its_weak_pass(kind, scale):
    y = np.array([2, 0, 2])
    weak_labels, weak_latents = np.array(WEAK[kind][0]), WEAK[kind][1]

    def guided(x, t, _):
        weak, strong = curved(x, t, weak_labels, weak_latents), curved(x, t, y, 9)
        return weak + scale * (strong - weak)

    out = generate(
        FieldSession(curved),
        y.tolist(),
        noise=NOISE[:3],
        solver="euler",
        steps=4,
        latents=9,
        guidance=kind,
        scale=scale,
        weak_latents=3,
    )
    np.testing.assert_allclose(out.samples, euler(guided, 4, NOISE[:3]), atol=2e-5)


@pytest.mark.parametrize("kind", WEAK)
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_scale_of_1_or_less_is_the_plain_field_in_one_pass(kind, scale):
    session = FieldSession(curved)
    out = generate(session, [1, 2], noise=NOISE[:2], solver="euler", steps=4, latents=9, guidance=kind, scale=scale)
    wanted = euler(lambda x, t, _: curved(x, t, np.array([1, 2]), 9), 4, NOISE[:2])
    np.testing.assert_allclose(out.samples, wanted, atol=1e-5)
    assert session.passes == [([1, 2], 9)] * 4


def test_guidance_acts_inside_its_interval_alone_and_at_both_its_ends():
    """Ten steps start at 1.0, 0.9 .. 0.1: those at 0.8 .. 0.3 are guided."""
    session = FieldSession(curved)
    generate(
        session, [1], solver="euler", steps=10, latents=9, guidance="ccfg", scale=2, weak_latents=4, interval=(0.3, 0.8)
    )
    strong, weak = ([1], 9), ([NULL], 4)
    assert session.passes == [strong] * 2 + [strong, weak] * 6 + [strong] * 2


def test_a_heun_step_guides_each_of_its_evaluations_by_its_own_time():
    """Steps 1 -> 0.75 -> 0.5 -> 0.25 -> 0; 0.75 alone is inside: end of the first step, start of the next."""
    session = FieldSession(curved)
    generate(
        session, [1], solver="heun", steps=4, latents=9, guidance="ccfg", scale=2, weak_latents=4, interval=(0.7, 0.8)
    )
    strong, weak = ([1], 9), ([NULL], 4)
    assert session.passes == [strong, strong, weak, strong, weak, *[strong] * 4]


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        ("none", [([2, 0], 9)]),
        ("cfg", [([2, 0, NULL, NULL], 9)]),
        ("ccfg", [([2, 0], 9), ([NULL, NULL], 4)]),
        ("autoguidance", [([2, 0], 9), ([2, 0], 4)]),
    ],
)
def test_a_step_makes_just_the_passes_that_its_guidance_needs(kind, passes):
    """cfg is one call of twice the batch; the others differ in the budget and need two."""
    session = FieldSession(curved)
    generate(session, [2, 0], solver="euler", steps=3, latents=9, guidance=kind, scale=2, weak_latents=4)
    assert session.passes == passes * 3


@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
def test_conditions_of_a_run_are_computed_once_for_each_time_and_class(solver):
    session = FieldSession(curved)
    out = generate(session, ["star", "sun", "star", "star"], solver=solver, steps=5, guidance="ccfg", scale=2)
    ((t, y),) = session.conditions
    assert len(set(zip(t.tolist(), y.tolist(), strict=True))) == len(t), "a pair was computed twice"
    assert set(y.tolist()) == {0, 2, NULL}
    assert len(t) <= 6 * 3
    assert out.condition_ms > 0


def test_without_a_null_pass_the_null_class_is_not_computed():
    for kind in ("none", "autoguidance"):
        session = FieldSession(curved)
        generate(session, [1], steps=2, guidance=kind, scale=2)
        ((_, y),) = session.conditions
        assert set(y.tolist()) == {1}


@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
@pytest.mark.parametrize("times_ahead", [0.1, 1, 2, 3.5])
def test_conditions_that_do_not_fit_at_once_are_computed_in_windows_with_the_same_result(
    monkeypatch, solver, times_ahead
):
    steps, classes = 7, 3
    wanted = generate(FieldSession(curved), [0, 2], solver=solver, steps=steps, guidance="cfg", scale=2)
    one_time = 4 * MODEL.modulation_size * classes
    monkeypatch.setattr(generation, "CONDITION_BYTES", int(one_time * times_ahead))
    session = FieldSession(curved)
    out = generate(session, [0, 2], solver=solver, steps=steps, guidance="cfg", scale=2)
    np.testing.assert_array_equal(out.samples, wanted.samples)
    largest = max(4 * MODEL.modulation_size * len(t) for t, _ in session.conditions)
    assert largest <= max(one_time, one_time * times_ahead), "a window holds no more than it may, and at least one time"
    computed = [pair for t, y in session.conditions for pair in zip(t.tolist(), y.tolist(), strict=True)]
    assert len(set(computed)) == len(computed), "a pair was computed twice"


def test_windows_change_nothing_on_a_real_runtime(monkeypatch, tiny):
    make = partial(generate, tiny, [1, 9], steps=4, solver="heun", guidance="ccfg", scale=2.5, seed=3)
    wanted = make()
    monkeypatch.setattr(generation, "CONDITION_BYTES", 1)
    assert np.abs(make().samples - wanted.samples).max() < 1e-5


def test_each_step_has_the_budget_given_for_it():
    session = FieldSession(curved)
    out = generate(session, ["moon"], latents=[16, 4, 1], solver="euler", guidance="none", noise=NOISE[:1])
    assert out.latents == (16, 4, 1)
    assert [latents for _, latents in session.passes] == [16, 4, 1]
    wanted = euler(lambda x, t, i: curved(x, t, np.array([1]), (16, 4, 1)[i]), 3, NOISE[:1])
    np.testing.assert_allclose(out.samples, wanted, atol=1e-5)


def test_steps_and_a_list_of_budgets_may_both_be_given_where_they_agree():
    assert generate(FieldSession(curved), [0], steps=2, latents=[3, 5]).latents == (3, 5)


@pytest.mark.parametrize("steps", [1, 4])
def test_steps_that_contradict_a_list_of_budgets_are_refused(steps):
    with pytest.raises(RequestError, match=rf"3 budgets for {steps} steps; give one for each step, or one number"):
        generate(FieldSession(curved), [0], steps=steps, latents=[1, 2, 3])


@pytest.mark.parametrize("steps", [0, -1, -25])
def test_less_than_one_step_is_refused(steps):
    with pytest.raises(RequestError, match=f"steps = {steps}: at least one step is needed"):
        generate(FieldSession(curved), [0], steps=steps)


def test_an_empty_list_of_budgets_is_refused():
    with pytest.raises(RequestError, match="at least one step is needed"):
        generate(FieldSession(curved), [0], latents=[])


@pytest.mark.parametrize(
    "wrong",
    [
        {"latents": 0},
        {"latents": 17},
        {"latents": [16, 17]},
        {"latents": [-1]},
        {"weak_latents": 0},
        {"weak_latents": 17},
    ],
)
def test_a_budget_that_the_model_does_not_have_is_refused_before_any_pass(wrong):
    session = FieldSession(curved)
    with pytest.raises(BudgetError, match="keeps 1 to 16 latents a group"):
        generate(session, [0], **wrong)
    assert session.passes == session.conditions == []


def test_what_is_not_given_comes_from_the_defaults_of_the_bundle():
    session = FieldSession(curved)
    out = generate(session, ["sun"])
    assert (out.solver, out.latents, out.seed) == ("heun", (16,) * 4, 0)
    guidance = out.guidance
    assert (guidance.kind, guidance.scale, guidance.weak_latents) == ("ccfg", 1.5, 2)
    assert (guidance.low, guidance.high) == (0, 1)
    assert session.passes == [([0], 16), ([NULL], 2)] * 7


def test_what_is_given_stands_beside_the_result():
    out = generate(
        FieldSession(curved),
        ["star", 0],
        steps=2,
        latents=7,
        solver="euler",
        guidance="autoguidance",
        scale=3,
        weak_latents=5,
        interval=(0.1, 0.9),
        seed=6,
    )
    assert (out.labels, out.latents, out.solver, out.seed) == ((2, 0), (7, 7), "euler", 6)
    guidance = out.guidance
    assert (guidance.kind, guidance.scale, guidance.weak_latents) == ("autoguidance", 3, 5)
    assert (guidance.low, guidance.high) == (0.1, 0.9)
    assert len(out.step_ms) == 2
    assert all(ms >= 0 for ms in out.step_ms)


@pytest.mark.parametrize("labels", [["moon", "star"], [1, 2], ["1", "2"], ("moon", 2), np.array([1, 2])])
def test_labels_may_be_names_or_numbers(bare, labels):
    session = FieldSession(straight)
    out = bare(session, labels, steps=1)
    assert out.labels == (1, 2)
    assert session.passes == [([1, 2], FULL)]
    np.testing.assert_array_equal(out.images, pixels(PICTURES[[1, 2]]))


@pytest.mark.parametrize("label", ["comet", " sun", "", 3, -1, "3", "-1", "9" * 5000, None, 1.5])
def test_an_unknown_label_is_refused_with_those_there_are(label):
    with pytest.raises(RequestError, match="one of: sun, moon, star; or a number from 0 to 2"):
        generate(FieldSession(curved), ["sun", label])


def test_a_model_without_names_takes_numbers(tiny):
    with pytest.raises(RequestError, match="unknown label 'cat'; give a number from 0 to 9"):
        generate(tiny, ["cat"])


def test_no_labels_are_refused():
    with pytest.raises(RequestError, match="give one for each picture"):
        generate(FieldSession(curved), [])


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"solver": "rk4"}, "one of: euler, heun, euler-maruyama"),
        ({"guidance": "cfgg"}, "one of: none, cfg, ccfg, autoguidance"),
        ({"scale": -1}, "at least 0"),
        ({"interval": (0.8, 0.3)}, "low end first"),
        ({"seed": -1}, r"0 \.\. 2\^64 - 1"),
        ({"seed": 1 << 64}, r"0 \.\. 2\^64 - 1"),
        ({"noise": NOISE[:1]}, r"2 labels of this model need \[2, 3, 8, 8\]"),
        ({"noise": np.zeros((2, 4, 8, 8))}, r"2 labels of this model need \[2, 3, 8, 8\]"),
        ({"noise": np.full((2, *SHAPE), np.nan)}, "not finite"),
        ({"noise": np.full((2, *SHAPE), np.inf)}, "not finite"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused_before_any_pass(wrong, advice):
    session = FieldSession(curved)
    with pytest.raises(RequestError, match=advice):
        generate(session, [0, 1], **wrong)
    assert session.passes == session.conditions == []


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
def test_given_noise_is_not_modified(solver, dtype):
    noise = NOISE[:2].astype(dtype)
    out = generate(FieldSession(curved), [0, 1], noise=noise, solver=solver, steps=3)
    np.testing.assert_array_equal(noise, NOISE[:2].astype(dtype))
    assert not np.shares_memory(out.samples, noise)


def test_noise_may_be_a_list(bare):
    out = bare(FieldSession(straight), [0], noise=NOISE[:1].tolist(), steps=2)
    np.testing.assert_allclose(out.samples, PICTURES[:1], atol=1e-6)


def test_images_of_a_pixel_model_are_uint8_with_channels_last(bare):
    out = bare(FieldSession(straight), [0, 1, 2], steps=3)
    assert out.samples.shape == (3, *SHAPE)
    assert out.samples.dtype == np.float64
    assert out.images.shape == (3, 8, 8, 3)
    assert out.images.dtype == np.uint8
    np.testing.assert_array_equal(out.images, pixels(PICTURES[:3]))


def test_values_beyond_the_range_of_pixels_are_cut_at_its_ends():
    samples = np.broadcast_to(np.array([-7.0, -1.0, -0.5, 0.5, 1.0, 1e9]), (1, 3, 6, 6)).copy()
    np.testing.assert_array_equal(images_of(samples, MANIFEST)[0, 0, :, 0], [0, 0, 64, 191, 255, 255])


def test_a_single_channel_becomes_grey():
    grey = msgspec.structs.replace(MANIFEST, model=msgspec.structs.replace(MODEL, in_channels=1))
    images = images_of(PICTURES[:2, :1], grey)
    assert images.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(images, np.repeat(pixels(PICTURES[:2, :1]), 3, axis=3))


def test_a_model_of_latents_has_samples_and_no_images_or_previews(tiny):
    seen = []
    out = generate(tiny, [1], steps=2, progress=seen.append, preview_every=1)
    assert out.samples.shape == (1, 4, 16, 16)
    assert out.images is None
    assert [progress.preview for progress in seen] == [None, None]


def test_progress_is_told_after_each_step(bare):
    session, seen = FieldSession(curved), []
    bare(session, [0], latents=[5, 6, 7], progress=lambda progress: seen.append((progress, len(session.passes))))
    assert [(p.step, p.steps, p.latents, passes) for p, passes in seen] == [(1, 3, 5, 1), (2, 3, 6, 2), (3, 3, 7, 3)]
    elapsed = [p.elapsed_ms for p, _ in seen]
    assert elapsed == sorted(elapsed)
    assert elapsed[0] > 0


def test_the_time_of_a_step_is_that_of_its_passes_alone(monkeypatch):
    """By a clock that only the session and the watcher move: conditions and previews are not the step's own."""
    clock = [0.0]

    def take(seconds):
        clock[0] += seconds

    class Slow(FieldSession):
        def condition(self, t, y):
            take(5)
            return super().condition(t, y)

        def velocity_from(self, x, modulations, latents):
            take(2)
            return super().velocity_from(x, modulations, latents)

    monkeypatch.setattr(generation, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(generation, "CONDITION_BYTES", 2 * 4 * MODEL.modulation_size)
    elapsed = []

    def watch(progress):
        elapsed.append(progress.elapsed_ms)
        take(100)

    out = generate(Slow(curved), [0], steps=3, solver="euler", guidance="none", progress=watch)
    assert out.step_ms == (2000, 2000, 2000)
    assert out.condition_ms == 10_000
    assert elapsed == [7000, 109_000, 216_000]


@pytest.mark.parametrize(("every", "with_preview"), [(0, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4]), (3, [3]), (9, [])])
def test_previews_come_at_their_interval(bare, every, with_preview):
    seen = []
    bare(FieldSession(straight), [0], steps=5, progress=seen.append, preview_every=every)
    assert [progress.step for progress in seen if progress.preview is not None] == with_preview
    assert len(seen) == 5


@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
def test_a_preview_is_the_finished_picture_as_the_step_predicts_it(bare, solver):
    """On straight paths to a picture every step predicts just that picture."""
    seen = []
    bare(FieldSession(straight), [2, 0], solver=solver, steps=4, progress=seen.append, preview_every=1)
    for progress in seen:
        assert progress.preview.dtype == np.uint8
        assert np.abs(progress.preview.astype(int) - pixels(PICTURES[[2, 0]])).max() <= 1


def test_an_error_of_the_watcher_ends_the_run(bare):
    session = FieldSession(curved)

    def watch(progress):
        raise KeyError(progress.step)

    with pytest.raises(KeyError):
        bare(session, [0], steps=5, progress=watch)
    assert len(session.passes) == 1


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_run_can_be_cancelled_between_two_steps(bare, after):
    session, seen = FieldSession(curved), []
    with pytest.raises(Cancelled, match=f"cancelled after {after} of 4 steps"):
        bare(session, [0], steps=4, progress=seen.append, cancelled=lambda: len(seen) == after)
    assert len(session.passes) == len(seen) == after


def test_a_run_that_is_not_cancelled_is_asked_before_each_step(bare):
    asked = []
    bare(FieldSession(curved), [0], steps=4, cancelled=lambda: bool(asked.append(1)))
    assert len(asked) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_names_step_and_budget_and_what_to_try(bare, bad):
    class Failing(FieldSession):
        def velocity_from(self, x, modulations, latents):
            v = super().velocity_from(x, modulations, latents)
            v[-1, 0, 0, 0] = bad if latents == 7 else 0
            return v

    seen = []
    with pytest.raises(PictureError, match=r"after step 3 of 4 .*, 7 latents a group.*reference runtime"):
        bare(Failing(curved), [0, 1], latents=[9, 8, 7, 6], progress=seen.append)
    assert len(seen) == 2


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_flat_picture_is_refused_by_its_number(bare, value):
    def second_is_flat(x, t, y, latents):
        return np.where((y == 1)[:, None, None, None], (x - value) / t, straight(x, t, y, latents))

    with pytest.raises(PictureError, match=r"picture 1 came out flat .*12 latents a group.*elit-edge verify"):
        bare(FieldSession(second_is_flat), [0, 1, 2], latents=[16, 12])


def test_a_faint_picture_is_a_picture(bare):
    def faint(x, t, y, latents):
        return (x - 0.01 * PICTURES[y]) / t

    assert bare(FieldSession(faint), [0], steps=2).samples.std() < 0.01
