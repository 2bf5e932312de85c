"""Engines on a real NVIDIA GPU: `make test-gpu`. Nothing here is a simulation; without a GPU all of it is skipped.

The contract suite (tests/contract) is held against each library that is ready, in float32 and fp16; then parity by
budget on the sample model, CUDA graphs, memory, rebuilding, and ten minutes of soak.
"""

import importlib.util
import os
import shutil
import time
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from elit_edge import Bundle
from elit_edge.bundle_files import write_manifest
from elit_edge.calibration.calibrating import calibrate
from elit_edge.errors import BundleError
from elit_edge.export.exporter import export
from elit_edge.export.verify_engines import verify_engines
from elit_edge.model.bundle_weights import model_of_bundle
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.runtimes.contract import Missing
from elit_edge.runtimes.registry import all_runtimes, words
from elit_edge.runtimes.tensorrt_.compiling import compile_bundle
from elit_edge.runtimes.tensorrt_.cuda import need_gpu
from elit_edge.runtimes.tensorrt_.library import LIBRARIES

pytestmark = pytest.mark.gpu
SOAK_S = float(os.environ.get("ELIT_EDGE_SOAK_S", "600"))
GROWTH_BYTES = 32 << 20
"""What a process may grow by while it soaks, after its first tenth."""

_spec = importlib.util.spec_from_file_location(
    "contract_on_a_gpu", Path(__file__).parents[1] / "contract" / "test_runtimes.py"
)
contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contract)
globals().update({name: each for name, each in vars(contract).items() if name.startswith("test_")})
runtime, precision, near, prepare = contract.runtime, contract.precision, contract.near, contract.prepare
session, alone, batch = contract.session, contract.alone, contract.batch


def libraries():
    """Each library, skipped with the reason where it is not ready."""
    for name in LIBRARIES:
        state = all_runtimes()[name].check()
        marks = [pytest.mark.skip(reason=f"{name}: {words(state)}")] if isinstance(state, Missing) else []
        yield pytest.param(name, id=name, marks=marks)


def compiled(path, name, *precisions):
    """The bundle with engines for this GPU."""
    for each in precisions:
        own = (need_gpu().compute_capability,) if LIBRARIES[name].ahead_of_time else ()
        compile_bundle(Bundle.open(path).files, LIBRARIES[name], each, compute_capabilities=own)
    return Bundle.open(path)


@pytest.fixture(scope="module", params=libraries())
def library(request):
    return request.param


@pytest.fixture(scope="module")
def half_path(tiny_bundle_path, tmp_path_factory):
    target = tmp_path_factory.mktemp("half") / "tiny.elit"
    calibrate(Bundle.open(tiny_bundle_path), "fp16", target, pictures=0, threads=1, accept_anyway=True)
    return target


@pytest.fixture(scope="module")
def bundle(library, half_path, tmp_path_factory):
    copy = shutil.copytree(half_path, tmp_path_factory.mktemp(library) / "tiny.elit")
    return compiled(copy, library, "fp32", "fp16")


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def pair(library, request):
    return library, request.param


@pytest.fixture(scope="module")
def sample(library, tmp_path_factory):
    """The sample model in fp16 and int8, with engines."""
    folder = tmp_path_factory.mktemp("sample")
    with resources.as_file(resources.files("elit_edge.data") / "sample.safetensors") as weights:
        export(read_checkpoint(weights), folder / "fp32.elit", check=False)
    calibrate(Bundle.open(folder / "fp32.elit"), "fp16", folder / "half.elit", pictures=0, accept_anyway=True)
    calibrate(Bundle.open(folder / "half.elit"), "int8", folder / "sample.elit", pictures=0, accept_anyway=True)
    return compiled(folder / "sample.elit", library, "fp32", "fp16", "int8")


def test_every_engine_of_the_sample_is_near_the_model_at_every_budget(sample, library):
    found = verify_engines(sample.files, model_of_bundle(sample.files, "fp32"))
    assert [(each.library, each.precision) for each in found] == [(library, each) for each in ("fp32", "fp16", "int8")]
    worst = {each.precision: each.psnr_db for each in found}
    print(worst)
    assert worst["fp16"] >= 35
    assert worst["int8"] >= 30
    assert worst["fp32"] >= 110


def feeds(manifest, rows, seed=0):
    model, random = manifest.model, np.random.default_rng(seed)
    x = random.standard_normal((rows, model.in_channels, model.image_size, model.image_size), np.float32)
    return x, random.uniform(0, 1, rows).astype(np.float32), random.integers(0, model.num_classes, rows)


def test_a_pass_is_captured_once_and_launched_from_then_on(sample, library):
    with sample.prepare(library, "fp16") as session:
        x, t, y = feeds(sample.manifest, 2)
        modulations = session.condition(t, y)
        first = session.velocity_from(x, modulations, 4)
        engine = session._engines["velocity"]
        contexts = [each.context for each in engine._passes.values()]
        if LIBRARIES[library].ahead_of_time:
            strategy = LIBRARIES[library].load().CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            assert contexts[0].get_runtime_config().cuda_graph_strategy == strategy
        else:
            assert engine.captures
            assert all(each.captured is not None for each in engine._passes.values())
        for _ in range(20):
            np.testing.assert_allclose(session.velocity_from(x, modulations, 4), first, atol=2e-2)
        assert [each.context for each in engine._passes.values()] == contexts


def test_another_budget_at_each_step_takes_no_memory(sample, library):
    with sample.prepare(library, "fp16") as session:
        x, t, y = feeds(sample.manifest, 3)
        modulations = session.condition(t, y)
        for latents in sample.manifest.budgets:
            session.velocity_from(x, modulations, latents)
        before = session._device.free_bytes()
        for turn in range(200):
            session.velocity_from(x, modulations, sample.manifest.budgets[turn * 7 % 16])
        assert session._device.free_bytes() == before


def test_an_engine_of_another_version_is_refused_and_built_anew_once(half_path, library, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = compiled(shutil.copytree(half_path, tmp_path / "tiny.elit"), library, "fp16")
    aged = tuple(msgspec.structs.replace(engine, version="9.9.9") for engine in bundle.manifest.engines)
    write_manifest(bundle.files.folder, msgspec.structs.replace(bundle.manifest, engines=aged))
    bundle = Bundle.open(bundle.files.folder)
    with pytest.raises(BundleError, match=rf"9\.9\.9, here is .*elit-edge compile .* --target {library}"):
        bundle.prepare(library, "fp16")
    said = []
    chosen = all_runtimes()[library]
    chosen.settle(bundle.files, "fp16", said.append)
    chosen.settle(bundle.files, "fp16", said.append)
    assert len(said) == 1
    with bundle.prepare(library, "fp16") as session, bundle.prepare("onnxruntime", "fp32") as exact:
        x, t, y = feeds(bundle.manifest, 2)
        found, right = session.velocity(x, t, y, 4), exact.velocity(x, t, y, 4)
    assert np.abs(found - right).max() < 0.02 * np.abs(right).max()


def test_ten_minutes_of_passes_grow_nothing(sample, library):
    process, random = psutil.Process(), np.random.default_rng(0)
    with sample.prepare(library, "fp16") as session:
        begun, grown, passes = time.monotonic(), None, 0
        while (elapsed := time.monotonic() - begun) < SOAK_S:
            rows, latents = int(random.integers(1, 20)), int(random.integers(1, 17))
            x, t, y = feeds(sample.manifest, rows, seed=passes)
            assert np.isfinite(session.velocity(x, t, y, latents)).all()
            passes += 1
            if grown is None and elapsed > SOAK_S / 10:
                grown = process.memory_info().rss, session._device.free_bytes()
        assert grown is not None
        print(f"{passes} passes in {SOAK_S:.0f} s")
        assert process.memory_info().rss - grown[0] < GROWTH_BYTES
        assert grown[1] - session._device.free_bytes() < GROWTH_BYTES
