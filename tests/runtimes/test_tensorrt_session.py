"""Sessions of TensorRT on a SIMULATION: batches in parts, memory taken once and given back, replayed passes, errors.

tests/simulated_gpu/test_contract.py holds the same sessions to the contract of all runtimes.
"""

import gc
import threading

import msgspec
import numpy as np
import pytest

from elit_edge import Bundle
from elit_edge.errors import BundleError, ElitEdgeError, FitError
from elit_edge.files import cache_folder
from elit_edge.runtimes.tensorrt_ import execution
from elit_edge.runtimes.tensorrt_.compiling import compile_bundle
from elit_edge.runtimes.tensorrt_.library import LIBRARIES, TENSORRT

pytest.importorskip("onnx")


@pytest.fixture
def session(gpu, bundle, library):
    with bundle.prepare(library) as opened:
        yield opened


@pytest.fixture
def batch(expected):
    return {name: expected[name].copy() for name in ("x", "t", "y")}


@pytest.fixture(scope="module")
def reference(tiny_bundle_path):
    """Another runtime's numbers, of the same graphs."""
    with Bundle.open(tiny_bundle_path).prepare("onnxruntime", threads=1) as opened:
        yield opened


def samples(count):
    random = np.random.default_rng(count)
    return {
        "x": random.standard_normal((count, 4, 16, 16), np.float32),
        "t": random.uniform(0, 1, count).astype(np.float32),
        "y": random.integers(0, 11, count),
    }


def close(one, other):
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("count", [1, 8, 9, 16, 19])
def test_batches_above_the_profile_are_computed_in_parts(session, reference, gpu, count):
    given = samples(count)
    close(session.velocity(**given, latents=3), reference.velocity(**given, latents=3))


@pytest.mark.parametrize("count", [1, 64, 65, 130])
def test_conditions_above_the_profile_are_computed_in_parts(session, reference, count):
    given = samples(count)
    close(session.condition(given["t"], given["y"]), reference.condition(given["t"], given["y"]))


def test_arrays_that_the_library_cannot_read_in_one_piece_are_copied(session, reference):
    given = samples(3)
    modulations = reference.condition(given["t"], given["y"])
    strided = [np.asfortranarray(given["x"]), np.repeat(modulations, 2, axis=0)[::2]]
    close(session.velocity_from(*strided, 5), reference.velocity_from(given["x"], modulations, 5))


def test_no_budget_and_no_batch_takes_memory_after_opening(session, gpu):
    given = samples(8)
    session.velocity(**given, latents=1)
    before = gpu.counts["cuMemAlloc"]
    for latents in (16, 1, 4, 9, 16):
        for count in (8, 1, 3):
            session.velocity(given["x"][:count], given["t"][:count], given["y"][:count], latents)
    assert gpu.counts["cuMemAlloc"] == before > 0


def test_a_pass_is_captured_once_and_launched_from_then_on(gpu, compiled, batch, expected):
    with Bundle.open(compiled["tensorrt"]).prepare("tensorrt") as session:
        modulations = session.condition(batch["t"], batch["y"])
        for launches in range(4):
            close(session.velocity_from(batch["x"], modulations, 7), expected["v_07"])
            assert gpu.counts["cuGraphLaunch"] == launches
        assert gpu.counts["cuStreamBeginCapture"] == 2  # of condition, and of velocity
        session.velocity_from(batch["x"], modulations, 8)
        assert gpu.counts["cuStreamBeginCapture"] == 3
        assert "graphs" not in gpu.held
        assert gpu.held["executables"] == 3


def test_the_other_library_captures_by_itself(gpu, compiled, batch, expected):
    from simulated_gpu import tensorrt

    with Bundle.open(compiled["tensorrt-rtx"]).prepare("tensorrt-rtx") as session:
        for latents in (7, 8, 7):
            close(session.velocity(**batch, latents=latents), expected[f"v_{latents:02d}"])
        assert gpu.counts["cuStreamBeginCapture"] == 0
        assert tensorrt.process.contexts == 2


def test_two_hundred_passes_in_any_order_hold_no_more_than_is_kept(session, reference, gpu, monkeypatch):
    """The last passes, by batch and budget, with other numbers each time; 129 pairs there are, and 20 are kept."""
    from simulated_gpu import tensorrt

    monkeypatch.setattr(execution, "KEPT_PASSES", 20)
    random = np.random.default_rng(0)
    held = set()
    for turn in range(200):
        given = samples(int(random.integers(1, 9)))
        latents = int(random.integers(1, 17))
        found = session.velocity(**given, latents=latents)
        if turn % 10 == 0:
            close(found, reference.velocity(**given, latents=latents))
        assert tensorrt.process.contexts <= 20 + 8  # of velocity; condition sees 8 batches
        if turn >= 100:
            held.add((gpu.held["allocations"], gpu.used_bytes))
    assert len(held) == 1


def test_what_is_used_again_is_kept(gpu, compiled, batch, monkeypatch):
    monkeypatch.setattr(execution, "KEPT_PASSES", 3)
    with Bundle.open(compiled["tensorrt"]).prepare("tensorrt") as session:
        modulations = session.condition(batch["t"], batch["y"])
        for latents in (1, 2, 3, 1, 4):
            session.velocity_from(batch["x"], modulations, latents)
        captures = gpu.counts["cuStreamBeginCapture"]
        for latents in (1, 3, 4):
            session.velocity_from(batch["x"], modulations, latents)
        assert gpu.counts["cuStreamBeginCapture"] == captures
        session.velocity_from(batch["x"], modulations, 2)
        assert gpu.counts["cuStreamBeginCapture"] == captures + 1


def test_each_budget_runs_in_the_profile_that_was_tuned_for_it(gpu, bundle, library, batch, expected, monkeypatch):
    from simulated_gpu import tensorrt

    chosen = []
    ask = tensorrt.IExecutionContext.set_optimization_profile_async
    monkeypatch.setattr(
        tensorrt.IExecutionContext,
        "set_optimization_profile_async",
        lambda self, profile, stream: chosen.append(profile) or ask(self, profile, stream),
    )
    compile_bundle(bundle.files, LIBRARIES[library], "fp32", form="per-budget")
    with Bundle.open(bundle.files.folder).prepare(library) as session:
        for latents in (1, 16, 5):
            close(session.velocity(**batch, latents=latents), expected[f"v_{latents:02d}"])
    assert chosen == [0, 0, 15, 4]  # condition, then the places of the budgets on the ladder


def test_a_model_without_latents_runs(gpu, tiny_checkpoint, tmp_path, library):
    """A plain SiT: its graph has no budget. Random weights."""
    import dataclasses

    import torch

    from elit_edge.export.exporter import export
    from elit_edge.model.transformer import DiffusionTransformer

    fields = {"architecture": "sit", "head_depth": 2, "core_depth": 0, "tail_depth": 0, "group_size": 1}
    config = msgspec.structs.replace(tiny_checkpoint.config, **fields)
    generator = torch.Generator().manual_seed(0)
    state = DiffusionTransformer(config).state_dict()
    weights = {name: torch.randn(value.shape, generator=generator) * 0.05 for name, value in state.items()}
    plain = dataclasses.replace(tiny_checkpoint, config=config, mapped=lambda: weights)
    export(plain, tmp_path / "sit.elit", check=False)
    compile_bundle(Bundle.open(tmp_path / "sit.elit").files, LIBRARIES[library], "fp32")
    bundle = Bundle.open(tmp_path / "sit.elit")
    given = samples(11)
    with bundle.prepare(library) as ours, bundle.prepare("onnxruntime", threads=1) as theirs:
        close(ours.velocity(**given, latents=1), theirs.velocity(**given, latents=1))


def test_closing_gives_everything_back_from_any_thread(gpu, bundle, library, batch):
    session = bundle.prepare(library)
    session.velocity(**batch, latents=4)
    assert gpu.held["allocations"] > 0
    thread = threading.Thread(target=session.close)
    thread.start()
    thread.join()
    gc.collect()
    assert gpu.held == {}
    session.close()


def test_a_session_may_be_used_by_one_thread_after_another(session, batch, expected):
    found = []
    thread = threading.Thread(target=lambda: found.append(session.velocity(**batch, latents=4)))
    thread.start()
    thread.join()
    close(found[0], expected["v_04"])
    close(session.velocity(**batch, latents=4), expected["v_04"])


CAPTURING = ("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy")
"""A pass runs where these fail; the last does for handles alone that are none."""


def calls_of(gpu, work):
    before = len(gpu.calls)
    work()
    return gpu.calls[before:]


def test_a_failure_at_any_call_of_opening_gives_everything_back(gpu, bundle, library):
    """Whatever is raised is an error that a user can act on; while it is looked at, the GPU is free already."""
    calls = calls_of(gpu, lambda: bundle.prepare(library).close())
    opening = calls[: len(calls) - calls[::-1].index("cuMemAlloc")]
    assert len(opening) > 15
    for at, name in enumerate(opening):
        gpu.fail_at(at)
        with pytest.raises(ElitEdgeError, match=name) as caught:
            bundle.prepare(library)
        gc.collect()
        assert gpu.held == {}, (at, name, str(caught.value))


def test_full_memory_at_any_allocation_of_opening_says_so(gpu, bundle, library):
    calls = calls_of(gpu, lambda: bundle.prepare(library).close())
    for at in range(calls.count("cuMemAlloc")):
        gpu.fail("cuMemAlloc", at, "CUDA_ERROR_OUT_OF_MEMORY")
        with pytest.raises(FitError, match=r"opening tiny in fp32 ran out of GPU memory; close what else runs"):
            bundle.prepare(library)
        gc.collect()
        assert gpu.held == {}


def test_a_failure_at_any_call_of_a_pass_leaves_the_session_usable(gpu, bundle, library, batch, expected):
    def once(opened):
        opened.velocity(**batch, latents=6)
        opened.velocity(**batch, latents=6)

    with bundle.prepare(library) as session:
        calls = calls_of(gpu, lambda: once(session))
    assert len(calls) > 10
    for at, name in enumerate(calls):
        if name in CAPTURING:
            continue
        with bundle.prepare(library) as session:
            gpu.fail_at(at)
            with pytest.raises(BundleError, match=name):
                once(session)
            close(session.velocity(**batch, latents=5), expected["v_05"])
            close(session.velocity(**batch, latents=6), expected["v_06"])
        gc.collect()
        assert gpu.held == {}, (at, name)


@pytest.mark.parametrize("name", CAPTURING[:-1])
def test_passes_that_cannot_be_captured_run_one_by_one(gpu, compiled, batch, expected, name):
    with Bundle.open(compiled["tensorrt"]).prepare("tensorrt") as session:
        modulations = session.condition(batch["t"], batch["y"])
        close(session.velocity_from(batch["x"], modulations, 5), expected["v_05"])
        gpu.fail(name)
        with pytest.warns(UserWarning, match=rf"velocity-fp32\.tensorrt runs kernel by kernel: no CUDA graph .*{name}"):
            session.velocity_from(batch["x"], modulations, 6)
        for latents in (6, 5, 6):
            close(session.velocity_from(batch["x"], modulations, latents), expected[f"v_{latents:02d}"])
        assert gpu.counts["cuStreamBeginCapture"] == 3
        assert gpu.counts["cuGraphLaunch"] == 0


def test_what_was_under_way_when_a_call_failed_ends_before_its_memory_goes(gpu, bundle, library, batch):
    session = bundle.prepare(library)
    gpu.fail("cuMemcpyDtoHAsync")
    with pytest.raises(BundleError, match="cuMemcpyDtoHAsync"):
        session.velocity(**batch, latents=6)
    session.close()


def test_what_the_library_says_of_a_pass_that_it_does_not_run_is_told(session, batch, monkeypatch):
    from simulated_gpu import tensorrt

    def refuse(_context, _stream):
        tensorrt._error("the sky is falling")
        tensorrt._error("and so it cannot run")
        return False

    monkeypatch.setattr(tensorrt.IExecutionContext, "execute_async_v3", refuse)
    monkeypatch.setattr("simulated_gpu.tensorrt_rtx.IExecutionContext.execute_async_v3", refuse)
    with pytest.raises(BundleError, match=r"running engines/condition-fp32\S+ by TensorRT.* failed: .*the sky is"):
        session.velocity(**batch, latents=6)


def test_a_shape_that_is_refused_leaves_the_pass_as_it_can_be_used(session, batch, expected, monkeypatch):
    from simulated_gpu import tensorrt

    close(session.velocity(**batch, latents=6), expected["v_06"])
    modulations = session.condition(batch["t"], batch["y"])
    set_shape = tensorrt.IExecutionContext.set_input_shape

    def set_all_but_one(context, name, shape):
        return name != "latents" and set_shape(context, name, shape)

    with monkeypatch.context() as patch:
        patch.setattr(tensorrt.IExecutionContext, "set_input_shape", set_all_but_one)
        with pytest.raises(BundleError, match=r"does not take latents of shape \[7\]"):
            session.velocity_from(batch["x"][:1], modulations[:1], 7)
    close(session.velocity_from(batch["x"], modulations, 6), expected["v_06"])


def engine_bytes(bundle):
    return {engine.role: bundle.manifest.files[engine.path].bytes for engine in bundle.manifest.engines}


def test_weights_that_the_gpu_has_no_room_for_are_refused_before_they_are_read(gpu, bundle, library):
    from simulated_gpu import tensorrt

    gpu.total_bytes = engine_bytes(bundle)["condition"] - 1
    with pytest.raises(FitError, match=r"opening condition-fp32\.\S+ needs about .* MB of GPU memory, and .* are free"):
        bundle.prepare(library)
    assert tensorrt.process.deserialized == 0
    gpu.total_bytes = sum(engine_bytes(bundle).values()) - (4 << 10)
    with pytest.raises(FitError, match=r"opening velocity-fp32"):
        bundle.prepare(library)
    assert tensorrt.process.deserialized == 1


def test_activations_that_the_gpu_has_no_room_for_are_refused_with_figures(gpu, bundle, library):
    gpu.total_bytes = sum(engine_bytes(bundle).values()) + (1 << 20)
    with pytest.raises(FitError, match=r"running tiny in fp32 needs about .* MB of GPU memory, and 1 MB are free"):
        bundle.prepare(library)
    assert gpu.counts["cuMemAlloc"] == 0


def test_memory_is_free_again_while_the_refusal_is_looked_at(gpu, bundle, library):
    """As by a program that takes the next precision then."""
    gpu.total_bytes = sum(engine_bytes(bundle).values()) + (1 << 20)
    try:
        bundle.prepare(library)
    except FitError:
        gc.collect()
        assert gpu.held == {}
    else:
        pytest.fail("it fits")


@pytest.mark.parametrize("step", ["deserialize_cuda_engine", "create_execution_context"])
def test_memory_that_the_library_itself_runs_out_of_is_a_matter_of_fit(gpu, bundle, library, batch, monkeypatch, step):
    from simulated_gpu import tensorrt, tensorrt_rtx

    def full(*_arguments):
        tensorrt.process.logger.log(tensorrt.ILogger.ERROR, "Error Code 2: OutOfMemory (Requested size was 7 bytes.)")

    for module in (tensorrt, tensorrt_rtx):
        for kind in (module.Runtime, module.ICudaEngine):
            if step in vars(kind):
                monkeypatch.setattr(kind, step, full)
    with pytest.raises(FitError, match="ran out of GPU memory"), bundle.prepare(library) as session:
        session.velocity(**batch, latents=2)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "does not match", id="changed"),
        pytest.param(lambda path: path.write_bytes(b""), "does not match", id="empty"),
        pytest.param(lambda path: path.unlink(), "cannot be read", id="gone"),
    ],
)  # fmt: skip
def test_an_engine_that_was_damaged_since_the_bundle_was_opened_never_reaches_the_library(
    gpu, bundle, library, damage, reason
):
    from simulated_gpu import tensorrt

    damage(bundle.files.folder / "engines" / f"condition-fp32.{library}")
    with pytest.raises(BundleError, match=rf"condition-fp32\.{library} {reason}.*compile the bundle again"):
        bundle.prepare(library)
    assert tensorrt.process.deserialized == 0


def test_an_engine_that_the_library_refuses_is_named_with_its_reason(gpu, bundle, library, monkeypatch):
    """Facts agree, and yet: a library may change without its version."""
    monkeypatch.setattr("simulated_gpu.tensorrt.Runtime.version", "9")
    monkeypatch.setattr("simulated_gpu.tensorrt_rtx.Runtime.version", "9")
    with pytest.raises(
        BundleError, match=r"opening .*condition-fp32\S+ by .* failed: .*of version .*; compile it again"
    ):
        bundle.prepare(library)


def test_a_second_session_of_a_process_hears_the_library_too(gpu, bundle, library, monkeypatch):
    """The library takes one logger a process."""
    bundle.prepare(library).close()
    monkeypatch.setattr("simulated_gpu.tensorrt.Runtime.version", "9")
    monkeypatch.setattr("simulated_gpu.tensorrt_rtx.Runtime.version", "9")
    with pytest.raises(BundleError, match="of version"):
        bundle.prepare(library)


def cache_files():
    return sorted(cache_folder("tensorrt-rtx").glob("*"))


def test_kernels_that_were_compiled_on_the_device_are_kept_for_the_next_run(gpu, compiled, batch, expected):
    from simulated_gpu import tensorrt_rtx

    bundle = Bundle.open(compiled["tensorrt-rtx"])
    tensorrt_rtx.caches_loaded.clear()
    with bundle.prepare("tensorrt-rtx") as session:
        session.velocity(**batch, latents=2)
    (path,) = cache_files()
    first = path.read_bytes()
    written = path.stat().st_mtime_ns
    assert tensorrt_rtx.caches_loaded == []
    with bundle.prepare("tensorrt-rtx") as session:
        close(session.velocity(**batch, latents=2), expected["v_02"])
    assert len(tensorrt_rtx.caches_loaded) == 1
    assert tensorrt_rtx.caches_loaded[0] in first
    assert path.stat().st_mtime_ns == written  # there was nothing new


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda found: found[:-1] + b"?", id="changed"),
        pytest.param(lambda found: found[:30], id="short"),
        pytest.param(lambda _: b"", id="empty"),
    ],
)
def test_a_damaged_cache_of_kernels_never_reaches_the_library_and_is_written_anew(gpu, compiled, batch, damage):
    from simulated_gpu import tensorrt_rtx

    bundle = Bundle.open(compiled["tensorrt-rtx"])
    with bundle.prepare("tensorrt-rtx") as session:
        session.velocity(**batch, latents=2)
    (path,) = cache_files()
    good = path.read_bytes()
    path.write_bytes(damage(good))
    tensorrt_rtx.caches_loaded.clear()
    with bundle.prepare("tensorrt-rtx") as session:
        session.velocity(**batch, latents=2)
    assert tensorrt_rtx.caches_loaded == []
    assert path.read_bytes() == good


def test_a_cache_of_kernels_of_another_driver_is_replaced(gpu, compiled, batch):
    bundle = Bundle.open(compiled["tensorrt-rtx"])
    with bundle.prepare("tensorrt-rtx") as session:
        session.velocity(**batch, latents=2)
    (path,) = cache_files()
    before = path.read_bytes()
    gpu.driver = 12090
    with bundle.prepare("tensorrt-rtx") as session:
        session.velocity(**batch, latents=2)
    assert path.read_bytes() != before


def test_a_cache_of_kernels_that_cannot_be_written_costs_nothing_else(gpu, compiled, batch, expected, tmp_path):
    (tmp_path / "cache").write_bytes(b"a file in the place of the folder")
    with Bundle.open(compiled["tensorrt-rtx"]).prepare("tensorrt-rtx") as session:
        close(session.velocity(**batch, latents=2), expected["v_02"])


def test_kernels_that_the_library_does_not_give_hide_no_error(gpu, compiled, batch, monkeypatch):
    """After a failure of the GPU it answers with None."""
    monkeypatch.setattr("simulated_gpu.tensorrt_rtx.IRuntimeCache.serialize", lambda _: None)
    with Bundle.open(compiled["tensorrt-rtx"]).prepare("tensorrt-rtx") as session:
        gpu.fail("cuStreamSynchronize", code="CUDA_ERROR_LAUNCH_FAILED")
        with pytest.raises(BundleError, match="CUDA_ERROR_LAUNCH_FAILED"):
            session.velocity(**batch, latents=2)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_are_not_compiled_of_graphs_that_there_are_not(gpu, bundle, library, precision):
    with pytest.raises(BundleError, match=f"cannot be computed in {precision} by {library}; it can in: fp32"):
        bundle.prepare(library, precision)


def test_a_logger_of_another_library_is_another(gpu):
    from elit_edge.runtimes.tensorrt_.library import TENSORRT_RTX

    assert TENSORRT.messages is TENSORRT.messages
    assert TENSORRT.messages is not TENSORRT_RTX.messages
