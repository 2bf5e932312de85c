"""The SIMULATION against the real coremltools: what its Python code asks of the native part is there, and is strict."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

from elit_edge.runtimes.coreml_.library import coremltools
from simulated_coreml import core_ml
from simulated_coreml.installing import USED_BY

NOT_SIMULATED = {"batchPredict", "newState", "get_all_compute_devices", "get_model_structure"}
"""Of what the modules below ask for; elit_edge calls nothing that leads there."""
MODEL = "coremltools.models.model"


def source(module):
    root = Path(coremltools().__file__).parent.parent
    return ast.parse(root.joinpath(*module.split(".")).with_suffix(".py").read_text())


def calls(module):
    """(function of the proxy or None for its constructor, number of arguments)."""
    for node in ast.walk(source(module)):
        if not isinstance(node, ast.Call):
            continue
        words = ast.unparse(node.func)
        if words == "_MLModelProxy":
            yield None, len(node.args)
        elif words.startswith(("_MLModelProxy.", "proxy.", "self._proxy.")):
            yield words.rpartition(".")[2], len(node.args)


def test_what_coremltools_calls_is_simulated_with_as_many_arguments():
    asked = {call for module in USED_BY for call in calls(module)}
    asked |= {call for call in calls(MODEL) if call[0] == "predict"}
    functions = {node.name: node for node in source("coremltools.models.utils").body if hasattr(node, "name")}
    called = (node for node in ast.walk(functions["compile_model"]) if isinstance(node, ast.Call))
    asked |= {
        (ast.unparse(node.func).rpartition(".")[2], len(node.args))
        for node in called
        if ast.unparse(node.func).startswith("_MLModelProxy.")
    }
    asked = {(name, count) for name, count in asked if name not in NOT_SIMULATED}
    assert {name for name, _ in asked} == {None, "predict", "compileModel", "get_compute_plan"}
    for name, count in asked:
        if name is None:
            bound = inspect.signature(core_ml._MLModelProxy).parameters
        else:
            bound = dict(inspect.signature(getattr(core_ml._MLModelProxy, name)).parameters)
            bound.pop("self", None)
        assert len(bound) == count, name


def test_the_plan_offers_what_coremltools_asks_a_plan_for():
    asked = {
        node.attr
        for node in ast.walk(source("coremltools.models.compute_plan"))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self.__proxy__"
    }
    asked.discard("get_compute_device_usage_for_neuralnetwork_layer")
    assert asked == {
        "model_structure",
        "get_compute_device_usage_for_mlprogram_operation",
        "get_estimated_cost_for_mlprogram_operation",
    }
    own = inspect.getsource(core_ml._MLComputePlanProxy)
    assert all(f"{name}(" in own or f"self.{name} =" in own for name in asked)


def test_compute_units_and_formats_are_those_of_coremltools():
    ct = coremltools()
    assert set(core_ml.COMPUTE_UNITS) == set(ct.ComputeUnit.__members__)
    formats = {16: ct._SPECIFICATION_VERSION_IOS_16, 17: ct._SPECIFICATION_VERSION_IOS_17,
               18: ct._SPECIFICATION_VERSION_IOS_18, 26: ct._SPECIFICATION_VERSION_IOS_26}  # fmt: skip
    from elit_edge.runtimes.coreml_ import system

    assert {version: system.MACOS[ios] for ios, version in formats.items()} == core_ml.SPECIFICATIONS


@pytest.fixture
def model_at(mac, few, separate, tmp_path):
    """Compiled by coremltools' own function: "few" or "separate", without elit_edge's cache."""

    def compile_one(files, place):
        found = str(tmp_path / f"{place}.mlmodelc")
        (package,) = {each.package for each in files.manifest.coreml[0].functions if each.role == "velocity"}
        assert coremltools().utils.compile_model(str(files.path(package)), found) in (found, None)
        return found

    return {"few": compile_one(few, "few"), "separate": compile_one(separate, "separate")}


def opened(path, name=None):
    return coremltools().models.CompiledMLModel(path, coremltools().ComputeUnit.CPU_ONLY, function_name=name)


def test_functions_are_opened_by_the_names_that_there_are(model_at, mac):
    opened(model_at["few"], "latents_04")
    opened(model_at["separate"])
    for place, name in (("few", "latents_05"), ("separate", "latents_04"), ("separate", "main")):
        with pytest.raises(RuntimeError, match=name):
            opened(model_at[place], name)
    mac.macos = (14, 7)
    with pytest.raises(RuntimeError, match="macOS 15"):
        opened(model_at["few"], "latents_04")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"x": None}, id="missing"),
        pytest.param({"z": np.zeros(3, np.float32)}, id="another name"),
        pytest.param({"x": np.zeros((1, 4, 16, 15), np.float32)}, id="shape"),
        pytest.param({"x": np.zeros((2, 4, 16, 16), np.float32)}, id="batch"),
        pytest.param({"x": np.zeros((1, 4, 16, 16), np.float64)}, id="float64"),
        pytest.param({"x": np.zeros((1, 4, 16, 16), np.int32)}, id="integers"),
    ],
)
def test_inputs_are_taken_as_declared_alone(model_at, few, change):
    model = opened(model_at["few"], "latents_04")
    width = few.manifest.model.modulation_size
    good = {"x": np.zeros((1, 4, 16, 16), np.float32), "modulations": np.zeros((1, width), np.float32)}
    assert model.predict(dict(good))["velocity"].shape == (1, 4, 16, 16)
    bad = {name: value for name, value in {**good, **change}.items() if value is not None}
    with pytest.raises(RuntimeError, match=r"features|MultiArray"):
        model.predict(bad)


def test_a_system_that_is_too_old_compiles_nothing(mac, few, tmp_path):
    mac.macos = (14, 7)
    package = few.manifest.coreml[0].functions[0].package
    with pytest.raises(RuntimeError, match="specification version 9"):
        coremltools().utils.compile_model(str(few.path(package)), str(tmp_path / "x.mlmodelc"))
