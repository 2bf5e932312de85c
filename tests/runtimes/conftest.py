"""TensorRT as a SIMULATION (tests/simulated_gpu), and bundles that it compiled."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A simulated machine with one GPU of compute capability 8.6, both libraries, and a cache of its own; in the end
    everything must have been given back."""
    from simulated_gpu.installing import assert_nothing_is_held, simulated_gpu

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with simulated_gpu(compute_capability="8.6") as machine:
        yield machine
        assert_nothing_is_held()


@pytest.fixture(scope="session")
def compiled(tiny_bundle_path, tmp_path_factory) -> Mapping[str, Path]:
    """The tiny bundle with float32 engines of a simulated library, by the library's name. Copy to change."""
    from simulated_gpu.installing import simulated_gpu

    from elit_edge.bundle_files import BundleFiles
    from elit_edge.runtimes.tensorrt_.compiling import compile_bundle
    from elit_edge.runtimes.tensorrt_.library import LIBRARIES

    made = {}
    with simulated_gpu(compute_capability="8.6"):
        for name, library in LIBRARIES.items():
            made[name] = tmp_path_factory.mktemp(name) / "tiny.elit"
            shutil.copytree(tiny_bundle_path, made[name])
            compile_bundle(BundleFiles.open(made[name]), library, "fp32")
    return made


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def library(request) -> str:
    """Each of the two."""
    return request.param


@pytest.fixture
def bundle(compiled, library, tmp_path):
    """A bundle with engines of one library, this test's own."""
    from elit_edge import Bundle

    return Bundle.open(shutil.copytree(compiled[library], tmp_path / "tiny.elit"))
