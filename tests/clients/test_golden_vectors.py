"""The golden vectors of clients/swift are what the Python package computes, and a Swift test reads each of them."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from elit_edge.bundle_files import BundleFiles

PROJECT = Path(__file__).parents[2]
TESTS = PROJECT / "clients" / "swift" / "Tests" / "ElitEdgeTests"
GOLDEN = TESTS / "Golden"
TOLERANCE = 1e-9
"""Logarithms and cosines differ in their last bits between machines."""


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The vectors as they are computed now."""
    folder = tmp_path_factory.mktemp("golden")
    shutil.copy(GOLDEN / "sample-manifest.json", folder)
    sys.path.insert(0, str(PROJECT / "tools"))
    try:
        import golden_vectors
    finally:
        sys.path.remove(str(PROJECT / "tools"))
    golden_vectors.write(folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_no_vector_is_missing_or_left_over(written):
    assert names(GOLDEN) == names(written)


@pytest.mark.parametrize("name", names(GOLDEN))
def test_each_is_what_the_package_computes(name, written):
    recorded, computed = (folder / name for folder in (GOLDEN, written))
    if name.endswith(".json"):
        assert differences(json.loads(recorded.read_bytes()), json.loads(computed.read_bytes()), name) == []
    else:
        assert recorded.read_bytes() == computed.read_bytes()


def differences(recorded, computed, where) -> list[str]:
    """Where two values of JSON differ by more than the last bits of their numbers."""
    if isinstance(recorded, dict) and isinstance(computed, dict) and recorded.keys() == computed.keys():
        return [each for key in recorded for each in differences(recorded[key], computed[key], f"{where}.{key}")]
    if isinstance(recorded, list) and isinstance(computed, list) and len(recorded) == len(computed):
        pairs = enumerate(zip(recorded, computed, strict=True))
        return [each for index, (a, b) in pairs for each in differences(a, b, f"{where}.{index}")]
    numbers = (int, float)
    if type(recorded) in numbers and type(computed) in numbers:
        near = math.isclose(recorded, computed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        return [] if near else [f"{where}: {recorded} is {computed} now"]
    return [] if recorded == computed else [f"{where}: {recorded} is {computed} now"]


def test_a_change_is_noticed():
    assert differences({"a": [1, 2.0, None]}, {"a": [1, 2.0 + 1e-12, None]}, "x") == []
    assert differences({"a": [1, 2.0]}, {"a": [1, 2.1]}, "x") == ["x.a.1: 2.0 is 2.1 now"]
    assert differences({"a": "0"}, {"a": "1"}, "x") != []
    assert differences({"a": 1}, {"b": 1}, "x") != []
    assert differences([1], [1, 2], "x") != []


@pytest.mark.parametrize("name", sorted({name.split("/")[0] for name in names(GOLDEN)}))
def test_a_swift_test_reads_each(name):
    sources = [path.read_text(encoding="utf-8") for path in TESTS.rglob("*.swift")]
    assert any(f'"{name}"' in source or f'"{name}/' in source for source in sources), name


def test_bits_are_numpys():
    """numpy's Philox is the one independent source of the seeds' bits."""
    for stream in json.loads((GOLDEN / "noise.json").read_bytes())["streams"]:
        key = np.array([int(stream["seed"], 16), stream["picture"]], np.uint64)
        raw = np.random.Philox(key=key).random_raw(len(stream["bits"]))
        assert [int(each, 16) for each in stream["bits"]] == raw.tolist()


def test_python_opens_the_small_bundle_too():
    files = BundleFiles.open(GOLDEN / "tiny.elit")
    assert [model.layout for model in files.manifest.coreml] == ["ane", "gpu"]
