"""What elit_edge/runtimes/contract.py promises, held against every runtime that is ready here, in each precision."""

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from coreml_packages import add_packages

from elit_edge import Bundle
from elit_edge.errors import BudgetError, BundleError, RequestError
from elit_edge.runtimes.contract import Missing, Ready, Session
from elit_edge.runtimes.coreml_ import system
from elit_edge.runtimes.registry import all_runtimes

TOLERANCE = {"fp32": 1e-5, "fp16": 0.02, "bf16": 0.1}
"""From the authors' velocities, of 4 at most, and between two ways to compute the same numbers. In bf16 PyTorch's
autocast is off by 0.024 on this model; the bar leaves room for kernels that round elsewhere."""
BUDGETS = range(1, 17)
LAYOUTS = ("ane", "gpu")
"""Of Core ML packages: on a Mac the bundle gets some of each."""


def runtimes_and_precisions():
    """Every pair to test. The tiny bundle is made after tests are collected: a stand-in says what it holds."""
    same = SimpleNamespace(psnr_db=999.0)
    packages = tuple(SimpleNamespace(layout=layout, variant="fp32", parity=same) for layout in LAYOUTS)
    to_come = SimpleNamespace(precisions=("fp32",), engines=(), coreml=packages)
    for name, runtime in sorted(all_runtimes().items()):
        state = runtime.check()
        if isinstance(state, Missing):
            reason = f"{name}: {state.reason}; {state.remedy}"
            yield pytest.param((name, None), id=name, marks=pytest.mark.skip(reason=reason))
        else:
            for precision in runtime.precisions(to_come):
                yield pytest.param((name, precision), id=f"{name}-{precision}")


@pytest.fixture(scope="module")
def bundle(tiny_bundle_path, tmp_path_factory):
    """The tiny bundle; on a Mac with coremltools, with packages for this macOS."""
    if not any(isinstance(all_runtimes()[f"coreml-{layout}"].check(), Ready) for layout in LAYOUTS):
        return Bundle.open(tiny_bundle_path)
    from elit_edge.export.to_coreml.recipe import Recipe

    ios = max(ios for ios, least in system.MACOS.items() if (system.macos() or (least,))[0] >= least)
    recipes = [Recipe(layout=layout, precision="fp32", ios=ios) for layout in LAYOUTS]
    return Bundle.open(
        add_packages(tiny_bundle_path, tmp_path_factory.mktemp("coreml") / "tiny.elit", *recipes, budgets=(*BUDGETS,))
    )


@pytest.fixture(scope="module", params=runtimes_and_precisions())
def pair(request):
    return request.param


@pytest.fixture(scope="module")
def runtime(pair):
    return pair[0]


@pytest.fixture(scope="module")
def precision(pair):
    return pair[1]


@pytest.fixture(scope="module")
def near(precision):
    return TOLERANCE[precision]


@pytest.fixture(scope="module")
def prepare(bundle, runtime, precision):
    """On one thread where nothing else is said: the machine that tests may be busy."""
    return partial(all_runtimes()[runtime].prepare, bundle.files, precision, threads=1)


@pytest.fixture(scope="module")
def session(prepare):
    with prepare() as opened:
        yield opened


@pytest.fixture
def batch(expected):
    """x, t, y of the authors' example, two samples, the second of the null class; free to be changed."""
    return {name: expected[name].copy() for name in ("x", "t", "y")}


def samples(count):
    random = np.random.default_rng(count)
    return {
        "x": random.standard_normal((count, 4, 16, 16), np.float32),
        "t": random.uniform(0, 1, count).astype(np.float32),
        "y": random.integers(0, 11, count),
    }


def furthest(one, other):
    assert one.shape == other.shape
    return float(np.abs(one.astype(np.float64) - other).max())


def test_a_ready_runtime_says_its_version(runtime):
    state = all_runtimes()[runtime].check()
    assert isinstance(state, Ready)
    assert state.version[0].isdigit()


def test_a_session_says_what_it_runs(session, runtime, precision, bundle):
    assert isinstance(session, Session)
    assert (session.runtime, session.precision) == (runtime, precision)
    assert session.manifest == bundle.manifest


def test_a_runtime_offers_what_was_collected_and_the_exact_first(runtime, precision, bundle):
    offered = all_runtimes()[runtime].precisions(bundle.manifest)
    assert precision in offered
    assert offered[0] == "fp32"


@pytest.mark.parametrize("precision", ["bf17", "fp17", ""])
def test_a_precision_that_there_is_not_is_refused_with_those_there_are(bundle, runtime, precision):
    with pytest.raises(BundleError, match=r"tiny.* fp32"):
        all_runtimes()[runtime].prepare(bundle.files, precision, 1)


@pytest.mark.parametrize("latents", BUDGETS)
def test_the_velocity_is_the_authors_at_every_budget(session, batch, expected, latents, near):
    v = session.velocity(**batch, latents=latents)
    assert v.dtype == np.float32
    assert furthest(v, expected[f"v_{latents:02d}"]) < near


@pytest.mark.parametrize("latents", [1, 7, 16])
def test_condition_and_velocity_from_compose_to_velocity(session, batch, latents, near):
    modulations = session.condition(batch["t"], batch["y"])
    assert modulations.dtype == np.float32
    assert modulations.shape == (2, session.manifest.model.modulation_size)
    composed = session.velocity_from(batch["x"], modulations, latents)
    assert furthest(composed, session.velocity(**batch, latents=latents)) < near


def test_conditions_of_a_whole_run_in_one_call_are_those_of_single_calls(session, near):
    given = samples(37)
    together = session.condition(given["t"], given["y"])
    for i in (0, 17, 36):
        assert furthest(session.condition(given["t"][i : i + 1], given["y"][i : i + 1]), together[i : i + 1]) < near


@pytest.fixture(scope="module")
def alone(session):
    """The velocities of nine samples, each in a call of its own."""
    given = samples(9)
    rows = [{name: array[i : i + 1] for name, array in given.items()} for i in range(9)]
    return np.concatenate([session.velocity(**row, latents=5) for row in rows])


@pytest.mark.parametrize("count", range(1, 10))
def test_a_sample_gets_the_same_velocity_in_any_batch(session, alone, count, near):
    given = {name: array[-count:] for name, array in samples(9).items()}
    assert furthest(session.velocity(**given, latents=5), alone[-count:]) < near


def test_the_budget_may_change_from_call_to_call(session, batch, expected, near):
    for latents in (16, 1, 16, 4, 1):
        assert furthest(session.velocity(**batch, latents=latents), expected[f"v_{latents:02d}"]) < near


def test_inputs_stay_as_they_were(session, batch, expected):
    modulations = session.condition(batch["t"], batch["y"])
    kept = modulations.copy()
    session.velocity_from(batch["x"], modulations, 3)
    session.velocity(**batch, latents=3)
    np.testing.assert_array_equal(modulations, kept)
    for name, array in batch.items():
        np.testing.assert_array_equal(array, expected[name])


def test_read_only_inputs_are_accepted(session, batch, expected, near):
    """As of a memory-mapped file; a session never writes to what it is given."""
    modulations = session.condition(batch["t"], batch["y"])
    for array in (*batch.values(), modulations):
        array.setflags(write=False)
    assert furthest(session.velocity(**batch, latents=9), expected["v_09"]) < near
    assert furthest(session.velocity_from(batch["x"], modulations, 9), expected["v_09"]) < near


def test_outputs_belong_to_the_caller(session, batch, expected, near):
    modulations = session.condition(batch["t"], batch["y"])
    first = session.velocity(**batch, latents=2)
    session.velocity(-batch["x"], batch["t"], batch["y"], 2)
    session.condition(batch["t"] / 2, batch["y"])
    assert furthest(first, expected["v_02"]) < near
    assert furthest(session.velocity_from(batch["x"], modulations, 2), first) < near
    first[:] = np.nan
    modulations[:] = np.nan
    assert furthest(session.velocity(**batch, latents=2), expected["v_02"]) < near


@pytest.mark.parametrize(
    "disguise",
    [
        pytest.param(lambda array: array.tolist(), id="lists"),
        pytest.param(lambda array: array.astype(np.float64), id="float64"),
        pytest.param(np.asfortranarray, id="column-major"),
        pytest.param(lambda array: np.repeat(array, 2, axis=0)[::2], id="strided"),
        pytest.param(lambda array: array[::-1].copy()[::-1], id="reversed"),
    ],
)
def test_inputs_may_come_in_any_form(session, batch, expected, disguise, near):
    given = {name: disguise(array) for name, array in batch.items()}
    v = session.velocity(**given, latents=6)
    assert v.dtype == np.float32
    assert furthest(v, expected["v_06"]) < near


def test_labels_may_be_of_any_integer_type(session, batch, expected, near):
    for dtype in (np.int32, np.uint8):
        v = session.velocity(batch["x"], batch["t"], batch["y"].astype(dtype), np.int64(6))
        assert furthest(v, expected["v_06"]) < near


@pytest.mark.parametrize("latents", [0, 17, -1, -16, 1 << 40, 2.5])
def test_a_budget_that_the_model_does_not_have_is_refused(session, batch, latents):
    with pytest.raises(BudgetError, match="keeps 1 to 16 latents a group"):
        session.velocity(**batch, latents=latents)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        pytest.param({"x": np.zeros((2, 3, 16, 16))}, r"takes \[B, 4, 16, 16\]", id="channels"),
        pytest.param({"x": np.zeros((2, 4, 16, 15))}, r"takes \[B, 4, 16, 16\]", id="side"),
        pytest.param({"x": np.zeros((4, 16, 16))}, r"takes \[B, 4, 16, 16\]", id="no batch axis"),
        pytest.param({"x": np.zeros((1, 2, 4, 16, 16))}, r"takes \[B, 4, 16, 16\]", id="an axis too many"),
        pytest.param({"x": np.zeros((2, 16, 16, 4))}, r"takes \[B, 4, 16, 16\]", id="channels last"),
        pytest.param({"x": np.zeros((0, 4, 16, 16)), "t": [], "y": []}, r"takes \[B, 4, 16, 16\]", id="empty batch"),
        pytest.param({"t": [0.5]}, r"must be \[2\], one a sample", id="t too short"),
        pytest.param({"t": 0.5}, r"must be \[2\], one a sample", id="one t for all"),
        pytest.param({"t": [[0.5], [0.5]]}, r"must be \[2\], one a sample", id="t in a column"),
        pytest.param({"y": [1, 2, 3]}, r"must be \[2\], one a sample", id="y too long"),
        pytest.param({"t": [0.5, 1.01]}, r"t must be in \[0, 1\]", id="t above 1"),
        pytest.param({"t": [-0.01, 0.5]}, r"t must be in \[0, 1\]", id="t below 0"),
        pytest.param({"t": [0.5, np.nan]}, r"t must be in \[0, 1\]", id="t not a number"),
        pytest.param({"t": [999, 0]}, r"t must be in \[0, 1\]", id="t in 0..999"),
        pytest.param({"y": [0, 11]}, r"y must be in 0\.\.10; 10 is the null class", id="label beyond the null class"),
        pytest.param({"y": [-1, 0]}, r"y must be in 0\.\.10; 10 is the null class", id="negative label"),
    ],
)
def test_bad_input_is_refused_with_what_the_model_takes(session, batch, change, advice):
    with pytest.raises(RequestError, match=advice):
        session.velocity(**{**batch, **change}, latents=4)


def test_both_ends_of_time_and_the_null_class_are_no_error(session, batch):
    assert np.isfinite(session.velocity(batch["x"], [0.0, 1.0], [0, 10], 4)).all()


def test_a_refused_call_leaves_the_session_usable(session, batch, expected, near):
    with pytest.raises(BudgetError):
        session.velocity(**batch, latents=17)
    assert furthest(session.velocity(**batch, latents=8), expected["v_08"]) < near


def test_closing_twice_is_no_error(prepare):
    opened = prepare()
    opened.close()
    opened.close()


def test_a_session_is_a_context_manager_that_closes_and_hides_no_error(prepare):
    closed = []
    opened = prepare()
    close = opened.close
    opened.close = lambda: closed.append(close())
    with opened as entered:
        assert entered is opened
    with pytest.raises(KeyError), opened:
        raise KeyError
    assert len(closed) == 2


def test_a_session_outlives_another_of_the_same_bundle(prepare, batch, expected, near):
    with prepare() as kept:
        prepare().close()
        assert furthest(kept.velocity(**batch, latents=16), expected["v_16"]) < near


@pytest.mark.parametrize("threads", [None, 2])
def test_the_numbers_do_not_depend_on_the_threads(prepare, batch, expected, threads, near):
    with prepare(threads=threads) as opened:
        assert furthest(opened.velocity(**batch, latents=11), expected["v_11"]) < near


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_refused(bundle, runtime, threads):
    with pytest.raises(RequestError, match="at least 1"):
        bundle.prepare(runtime, threads=threads)


def test_the_threads_of_a_session_are_its_own(prepare, batch):
    """torch counts its threads for the whole process; a session must not leave that changed."""
    torch = sys.modules.get("torch")
    if torch is None:
        pytest.skip("torch is not in use")
    before = torch.get_num_threads()
    try:
        with prepare(threads=before + 1) as opened:
            opened.velocity(**batch, latents=1)
            assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)
