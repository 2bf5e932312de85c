"""The SIMULATION against what NVIDIA publishes: every method that it offers is there, with those parameters."""

import ast
import importlib.util
import inspect
from collections import defaultdict
from pathlib import Path

import pytest

from simulated_gpu import driver, tensorrt, tensorrt_rtx

OURS = {"fault", "version", "capabilities", "engine", "add", "fits"}
"""Methods and properties that are the simulation's own affair."""


def offered(module):
    for kind in vars(module).values():
        if inspect.isclass(kind) and kind.__module__ == module.__name__ and not kind.__name__.startswith("_"):
            for name, member in vars(kind).items():
                if not name.startswith("_") and name not in OURS and (callable(member) or isinstance(member, property)):
                    yield kind.__name__, name, member


def stubs():
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tensorrt-stubs is not installed here")
    tree = ast.parse(Path(next(iter(spec.submodule_search_locations)), "tensorrt.pyi").read_text())
    kinds = {kind.name: kind for kind in tree.body if isinstance(kind, ast.ClassDef)}
    found = {name: defaultdict(list) for name in kinds}
    for name, kind in kinds.items():
        for member in kind.body:
            if isinstance(member, ast.FunctionDef):
                found[name][member.name].append([argument.arg for argument in member.args.args])
    return found


def test_the_classic_library_has_what_the_simulation_offers():
    published = stubs()
    checked = 0
    for kind, name, member in offered(tensorrt):
        if kind == "Misuse" or name in ("MAX_DIMS", "Severity"):
            continue
        assert name in published[kind], f"{kind}.{name}"
        if inspect.isfunction(member):
            assert list(inspect.signature(member).parameters) in published[kind][name], f"{kind}.{name}"
        checked += 1
    assert checked > 40


def test_the_other_library_has_what_the_simulation_offers():
    real = pytest.importorskip("tensorrt_rtx")
    for module in (tensorrt, tensorrt_rtx):
        for kind, name, _ in offered(module):
            if hasattr(tensorrt_rtx, kind):
                assert hasattr(getattr(real, kind), name), f"{kind}.{name}"
    for kind in (tensorrt_rtx.ComputeCapability, tensorrt_rtx.CudaGraphStrategy, tensorrt_rtx.EngineValidity):
        assert set(kind.__members__) <= set(getattr(real, kind.__name__).__members__)


def test_the_binding_has_what_the_simulation_offers():
    real = pytest.importorskip("cuda.bindings.driver")
    functions = [name for name in vars(driver) if name.startswith("cu") and name[2].isupper()]
    assert len(functions) > 20
    for name in functions:
        assert callable(getattr(real, name))
    for kind in (driver.CUresult, driver.CUdevice_attribute, driver.CUstream_flags, driver.CUstreamCaptureMode):
        theirs = getattr(real, kind.__name__)
        assert {member.name: int(member) for member in kind} == {
            member.name: int(getattr(theirs, member.name)) for member in kind
        }
