"""Engines that TensorRT for RTX really builds here, without a GPU: what goes in, what comes out, what is refused."""

import contextlib
import multiprocessing
import shutil
import types
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open

from elit_edge.bundle import Bundle
from elit_edge.bundle_files import BundleFiles, file_entries, write_manifest
from elit_edge.calibration.calibrating import calibrate
from elit_edge.errors import BundleError, Cancelled, RequestError, RuntimeUnavailable
from elit_edge.export.exporter import export
from elit_edge.manifest import Range
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.profiling import turns
from elit_edge.runtimes.contract import Missing
from elit_edge.runtimes.tensorrt_ import RUNTIMES
from elit_edge.runtimes.tensorrt_.attention import without_attention
from elit_edge.runtimes.tensorrt_.building import build_engine
from elit_edge.runtimes.tensorrt_.compiling import AHEAD, chosen_precision, compile_bundle
from elit_edge.runtimes.tensorrt_.fitting import platform_name
from elit_edge.runtimes.tensorrt_.library import TENSORRT, TENSORRT_RTX
from elit_edge.runtimes.tensorrt_.network import check_network, products, read_network
from elit_edge.runtimes.tensorrt_.profiles import engine_profiles, shapes

STATE = TENSORRT_RTX.state()
needs_rtx = pytest.mark.skipif(isinstance(STATE, Missing), reason=f"TensorRT for RTX: {STATE}")
PROFILE_BYTES = {"fp16": 8e6, "int8": 10e6}
"""The most that a further fixed profile may add: kernels, and no weights."""


@pytest.fixture(scope="session")
def sample_path(tmp_path_factory):
    """The sample model with fp16 and int8 graphs; read it, copy it to change it."""
    folder = tmp_path_factory.mktemp("engines")
    with resources.as_file(resources.files("elit_edge.data") / "sample.safetensors") as weights:
        export(read_checkpoint(weights), folder / "fp32.elit", check=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "ROUNDS", 1)
        for source, scheme, target in (("fp32", "fp16", "half"), ("half", "int8", "sample")):
            bundle = Bundle.open(folder / f"{source}.elit")
            calibrate(bundle, scheme, folder / f"{target}.elit", pictures=0, threads=1, accept_anyway=True)
    return folder / "sample.elit"


@pytest.fixture
def sample(sample_path, tmp_path):
    """A copy that the test may change."""
    return Bundle.open(shutil.copytree(sample_path, tmp_path / "sample.elit")).files


@pytest.fixture
def tiny(tiny_bundle_path, tmp_path):
    return Bundle.open(shutil.copytree(tiny_bundle_path, tmp_path / "tiny.elit")).files


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copies_of_weights(engine, weights):
    """How often the middle of each matrix stands in an engine's bytes: fp16 and int8 are kept as they are stored."""
    found = []
    with safe_open(weights, "numpy") as stored:
        for name in stored.keys():  # noqa: SIM118 - the file is no dictionary
            if name.endswith(".weight_t"):
                data = np.ascontiguousarray(stored.get_tensor(name)).tobytes()
                found.append(engine.count(data[len(data) // 2 :][:96]))
    return found


@needs_rtx
def test_an_engine_in_the_bundle_with_all_that_is_to_be_known_of_it(sample):
    before = contents(sample.folder)
    manifest = compile_bundle(sample, TENSORRT_RTX, "fp16")
    files = Bundle.open(sample.folder).files  # every digest holds
    assert files.manifest == manifest
    condition, velocity = manifest.engines
    assert (condition.role, velocity.role) == ("condition", "velocity")
    for engine in manifest.engines:
        assert (engine.library, engine.precision) == ("tensorrt-rtx", "fp16")
        assert engine.version == __import__("tensorrt_rtx").__version__
        assert engine.platform == platform_name()
        assert engine.compute_capabilities == AHEAD
        assert (engine.compiled_on, engine.driver) == (None, None)
        assert engine.path in manifest.files
    (profile,) = velocity.profiles
    assert (profile.latents, profile.batch) == (Range(least=1, typical=16, most=16), Range(least=1, typical=1, most=8))
    after = contents(sample.folder)
    assert {name: data for name, data in after.items() if name in before and name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    assert RUNTIMES[1].precisions(manifest) == ("fp16",)
    assert RUNTIMES[0].precisions(manifest) == ()


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_profiles_share_one_copy_of_the_weights(sample, precision):
    """A matrix's own bytes are in the engine once, however many profiles there are."""
    ladder = tuple(rung for rung in sample.manifest.ladder if rung.latents in (1, 4, 16))
    few = BundleFiles(sample.folder, msgspec.structs.replace(sample.manifest, ladder=ladder))
    graph = few.manifest.graph("velocity", precision)
    sizes = {}
    for form in ("range", "per-budget"):
        profiles = engine_profiles(few.manifest, graph, form)
        engine = bytes(build_engine(TENSORRT_RTX, few, graph, profiles, compute_capabilities=("8.6",)))
        copies = copies_of_weights(engine, few.path(graph.weights))
        assert len(copies) == 44
        assert set(copies) <= {0, 1}  # 0: packed another way
        assert sum(copies) >= 30
        sizes[len(profiles)] = len(engine)
    assert sizes[3] - sizes[1] < 2 * PROFILE_BYTES[precision]


@needs_rtx
def test_one_engine_for_many_gpus_is_no_larger_than_one_for_one(sample):
    graph = sample.manifest.graph("velocity", "fp16")
    profiles = engine_profiles(sample.manifest, graph, "range")
    sizes = [
        build_engine(TENSORRT_RTX, sample, graph, profiles, compute_capabilities=capabilities).nbytes
        for capabilities in (("8.6",), ("8.9", "12.0"), AHEAD)
    ]
    assert max(sizes) < 1.02 * min(sizes)


def linear_layers(model):
    """Names of the torch model's own layers."""
    return {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


@pytest.fixture(scope="module")
def networks(sample_path):
    """Each graph of the sample as the builder gets it."""
    files = Bundle.open(sample_path).files
    module = TENSORRT_RTX.load()
    builder = module.Builder(TENSORRT_RTX.messages.logger)
    graphs = [graph for graph in files.manifest.graphs if graph.latents is None and graph.role != "model"]
    return {(g.role, g.precision): (g, read_network(TENSORRT_RTX, builder, files, g)) for g in graphs}


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_network_has_every_layer_of_the_model_in_its_precision(networks, precision, sample_path):
    with resources.as_file(resources.files("elit_edge.data") / "sample.safetensors") as weights:
        layers = linear_layers(read_checkpoint(weights).model())
    calibration = Bundle.open(sample_path).manifest.calibration(precision)
    found = []
    for role in ("condition", "velocity"):
        graph, network = networks[role, precision]
        check_network(network, graph, calibration.float_layers if calibration else ())
        found += products(network)
    assert {product.layer for product in found} == layers
    kept = set(calibration.float_layers) if calibration else set()
    assert (len(kept) > 0) == (precision == "int8")
    wanted = {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8"}[precision]
    assert {product.layer for product in found if product.dtype != wanted} == kept
    assert {product.dtype for product in found if product.layer in kept} <= {"FLOAT"}


@needs_rtx
def test_what_the_calibration_did_not_leave_in_float_is_refused_in_float(networks):
    graph, network = networks["velocity", "int8"]
    with pytest.raises(BundleError, match=r"^patch of .* would not be computed in int8"):
        check_network(network, graph, ())


@needs_rtx
@pytest.mark.parametrize(("claimed", "found"), [("fp16", "fp32"), ("fp32", "fp16"), ("int8", "fp16")])
def test_a_graph_of_another_precision_is_refused(networks, claimed, found):
    graph, network = networks["velocity", found]
    with pytest.raises(BundleError, match=f"would not be computed in {claimed}"):
        check_network(network, msgspec.structs.replace(graph, precision=claimed), ())


@needs_rtx
def test_inputs_that_are_not_the_manifests_are_refused(networks):
    graph, network = networks["velocity", "fp16"]
    x, *others = graph.inputs
    for wrong in (
        msgspec.structs.replace(x, name="z"),
        msgspec.structs.replace(x, dtype="float16"),
        msgspec.structs.replace(x, shape=("batch", 3, 32, 16)),
    ):
        with pytest.raises(BundleError, match="the manifest says"):
            check_network(network, msgspec.structs.replace(graph, inputs=(wrong, *others)), ())


def test_profiles_hold_each_budget_and_each_batch(sample_path):
    manifest = Bundle.open(sample_path).manifest
    graph = manifest.graph("velocity", "fp16")
    budgets = [profile.latents for profile in engine_profiles(manifest, graph, "per-budget")]
    assert [(each.least, each.typical, each.most) for each in budgets] == [(j, j, j) for j in range(1, 17)]
    (whole,) = engine_profiles(manifest, graph, "range")
    assert shapes(graph, whole) == {
        "x": ((1, 3, 32, 32), (1, 3, 32, 32), (8, 3, 32, 32)),
        "modulations": ((1, 10752), (1, 10752), (8, 10752)),
        "latents": ((1,), (16,), (16,)),
    }
    condition = manifest.graph("condition", "fp16")
    (rows,) = engine_profiles(manifest, condition, "per-budget")
    assert shapes(condition, rows) == {"t": ((1,), (64,), (64,)), "y": ((1,), (64,), (64,))}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_graph_without_attention_computes_the_same(sample, precision):
    """For parsers of opset 20; held against the graph itself on ONNX Runtime."""
    path = sample.graph_path(sample.manifest.graph("velocity", precision))
    plain = path.with_name("plain.onnx")
    plain.write_bytes(without_attention(path))
    model = onnx.load(plain, load_external_data=False)
    onnx.checker.check_model(str(plain), full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert "Attention" not in {node.op_type for node in model.graph.node}
    random = np.random.default_rng(0)
    feeds = {
        "x": random.standard_normal((2, 3, 32, 32), np.float32),
        "modulations": random.standard_normal((2, 10752), np.float32),
        "latents": np.zeros(5, np.int64),
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    whole, parts = (onnxruntime.InferenceSession(each, options).run(None, feeds)[0] for each in (path, plain))
    assert np.abs(whole - parts).max() < (0.01 if precision == "fp16" else 1e-4) * np.abs(whole).max()


@needs_rtx
def test_a_library_without_attention_gets_the_graph_without_it(sample, monkeypatch):
    """As TensorRT 10.3 of JetPack 6, whose names this stand-in has; it is RTX's parser and builder that run."""
    module = TENSORRT_RTX.load()
    older = types.SimpleNamespace(**{name: getattr(module, name) for name in dir(module) if "Attention" not in name})
    monkeypatch.setattr(type(TENSORRT_RTX), "load", lambda _: older)
    graph = sample.manifest.graph("velocity", "fp16")
    network = read_network(TENSORRT_RTX, module.Builder(TENSORRT_RTX.messages.logger), sample, graph)
    check_network(network, graph, ())
    kinds = [network.get_layer(index).type.name for index in range(network.num_layers)]
    assert kinds.count("SOFTMAX") == 10
    assert not any(kind.startswith("ATTENTION") for kind in kinds)
    profiles = engine_profiles(sample.manifest, graph, "range")
    assert build_engine(TENSORRT_RTX, sample, graph, profiles, compute_capabilities=("8.6",)).nbytes > 1e6


@needs_rtx
def test_progress_grows_to_the_end(tiny):
    told = []
    compile_bundle(tiny, TENSORRT_RTX, "fp32", report=lambda stage, share: told.append((stage, share)))
    assert list(dict.fromkeys(stage for stage, _ in told)) == ["condition", "velocity", "seal"]
    shares = [share for stage, share in told if stage == "velocity"]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5 < shares[-1] <= 1


@needs_rtx
@pytest.mark.parametrize("steps", [0, 40, 600])
def test_a_cancelled_build_leaves_the_bundle_as_it_was(tiny, steps):
    before, asked = contents(tiny.folder), []

    def cancelled():
        asked.append(None)
        return len(asked) > steps

    with pytest.raises(Cancelled):
        compile_bundle(tiny, TENSORRT_RTX, "fp32", cancelled=cancelled)
    assert len(asked) < steps + 10
    assert contents(tiny.folder) == before
    assert [path.name for path in tiny.folder.parent.iterdir()] == ["tiny.elit"]


@needs_rtx
def test_compiling_again_replaces_the_engines_of_that_precision_alone(sample):
    compile_bundle(sample, TENSORRT_RTX, "fp16")
    files = Bundle.open(sample.folder).files
    compile_bundle(files, TENSORRT_RTX, "fp32", compute_capabilities=("8.6",))
    files = Bundle.open(sample.folder).files
    kept = files.path("engines/velocity-fp16.tensorrt-rtx").read_bytes()
    compile_bundle(files, TENSORRT_RTX, "fp32", compute_capabilities=("8.9",))
    manifest = Bundle.open(sample.folder).manifest
    found = [(engine.role, engine.precision, engine.compute_capabilities) for engine in manifest.engines]
    assert found == [
        ("condition", "fp16", AHEAD), ("velocity", "fp16", AHEAD), ("condition", "fp32", ("8.9",)),
        ("velocity", "fp32", ("8.9",)),
    ]  # fmt: skip
    assert files.path("engines/velocity-fp16.tensorrt-rtx").read_bytes() == kept


@needs_rtx
def test_the_library_that_times_nothing_takes_no_timing_cache(tiny, tmp_path):
    """TensorRT for RTX deprecates the calls as doing nothing; classic TensorRT's are tested on the simulated GPU."""
    with pytest.raises(RequestError, match=r"times nothing when it compiles, and has no use for .*timing\.cache"):
        compile_bundle(tiny, TENSORRT_RTX, "fp32", timing_cache=tmp_path / "timing.cache")
    assert list(tmp_path.iterdir()) == [tiny.folder]


def rewritten(files, change):
    """The bundle with its fp32 condition graph changed, and digests that hold."""
    graph = files.manifest.graph("condition", "fp32")
    path = files.graph_path(graph)
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    write_manifest(files.folder, msgspec.structs.replace(files.manifest, files=file_entries(files.folder)))
    return Bundle.open(files.folder).files, graph


@needs_rtx
def test_an_operator_that_the_parser_does_not_know_is_named(tiny):
    def change(model):
        model.graph.node[0].op_type = "Frobnicate"

    files, _ = rewritten(tiny, change)
    before = contents(files.folder)
    with pytest.raises(BundleError, match=r"TensorRT for RTX 1\..* cannot read .*condition\.onnx: .*Frobnicate"):
        compile_bundle(files, TENSORRT_RTX, "fp32")
    assert contents(files.folder) == before


@needs_rtx
def test_a_bundle_that_changed_since_it_was_opened_is_compiled_as_it_is_now(sample):
    """Another process put engines in while this one waited: they stay."""
    stale = Bundle.open(sample.folder).files
    compile_bundle(sample, TENSORRT_RTX, "int8", compute_capabilities=("8.6",))
    manifest = compile_bundle(stale, TENSORRT_RTX, "fp32", compute_capabilities=("8.6",))
    assert {engine.precision for engine in manifest.engines} == {"int8", "fp32"}


@needs_rtx
def test_what_was_damaged_while_it_compiled_gets_no_new_digest(tiny):
    weights = tiny.folder / "onnx" / "weights.safetensors"
    right = weights.read_bytes()

    def damage(_stage, _share):
        weights.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))

    compile_bundle(tiny, TENSORRT_RTX, "fp32", report=damage)
    with pytest.raises(BundleError, match=r"weights\.safetensors does not match its digest"):
        Bundle.open(tiny.folder)


def compile_in_process(folder, precision):
    compile_bundle(Bundle.open(folder).files, TENSORRT_RTX, precision, compute_capabilities=("8.6",))


@needs_rtx
def test_two_processes_at_once_both_end_in_one_whole_bundle(sample):
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        workers = [context.Process(target=compile_in_process, args=(sample.folder, each)) for each in ("fp16", "int8")]
        for worker in workers:
            worker.start()
            stack.callback(worker.join)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert {engine.precision for engine in Bundle.open(sample.folder).manifest.engines} == {"fp16", "int8"}
    assert [path.name for path in sample.folder.parent.iterdir()] == ["sample.elit"]


def test_classic_tensorrt_is_absent_here_and_says_how_to_get_it(tiny):
    """Its type stubs are installed for `make check`; they do not count as the library."""
    if not isinstance(TENSORRT.state(), Missing):
        pytest.skip("TensorRT is installed here")
    with pytest.raises(RuntimeUnavailable, match=r"TensorRT is not installed: .*JetPack.*pip install tensorrt"):
        compile_bundle(tiny, TENSORRT, "fp32")
    state = RUNTIMES[0].check()
    assert isinstance(state, Missing)
    assert "tensorrt is not installed" in state.reason


@needs_rtx
@pytest.mark.parametrize("capability", ["8.7", "7.5", "9.0", "86", "sm_86", "", "10"])
def test_gpus_that_it_cannot_compile_for_are_refused_with_those_it_can(tiny, capability):
    before = contents(tiny.folder)
    with pytest.raises(RequestError, match=r"does not compile .*; it does for: 8\.0, 8\.6, 8\.9, 12\.0"):
        compile_bundle(tiny, TENSORRT_RTX, "fp32", compute_capabilities=("8.6", capability))
    assert contents(tiny.folder) == before


def test_the_precision_is_the_first_that_engines_are_made_in(sample_path, tiny_bundle_path):
    sample, tiny = Bundle.open(sample_path).manifest, Bundle.open(tiny_bundle_path).manifest
    assert [chosen_precision(sample, asked) for asked in (None, "int8", "fp32")] == ["fp16", "int8", "fp32"]
    assert chosen_precision(tiny, None) == "fp32"
    with pytest.raises(BundleError, match=r"tiny has no fp16 graphs; it has: fp32\. .*--scheme fp16"):
        chosen_precision(tiny, "fp16")
    with pytest.raises(BundleError, match="no w8 graphs"):
        chosen_precision(tiny, "w8")


def test_engines_are_debris_of_no_other_bundle(tiny):
    """A folder of engines that the manifest does not list is foreign, as any file."""
    Path(tiny.folder, "engines").mkdir()
    Path(tiny.folder, "engines", "velocity-fp32.tensorrt").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"engines/velocity-fp32\.tensorrt not listed"):
        Bundle.open(tiny.folder)
