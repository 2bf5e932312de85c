"""SIMULATED: the native part of coremltools. Strict where Core ML refuses; where it may be lenient, strict too."""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from elit_edge.export.mil.evaluator import MilFunction
from elit_edge.export.mil.reading import MilPackage

MARK = "coremldata.bin"
"""What makes a folder a compiled model here; Core ML's own have such a file, with other contents."""
PACKAGE = "simulated.mlpackage"
SPECIFICATIONS = {7: 13, 8: 14, 9: 15, 10: 26}
"""The macOS that first opens a version of the format."""
FUNCTIONS_FROM, PLANS_FROM = (15,), (14, 4)
COMPUTE_UNITS = ("ALL", "CPU_AND_GPU", "CPU_ONLY", "CPU_AND_NE")


@dataclass
class Machine:
    """The Mac, and what it was asked for."""

    macos: tuple[int, ...] = (26, 0)
    compiled: list[str] = field(default_factory=list)
    opened: list[tuple[str, str]] = field(default_factory=list)
    """Function and compute units."""
    predicted: list[str] = field(default_factory=list)
    plan: object = None
    """operator type, place among the operators, units -> device (class name or None) and cost; None: every operator
    prefers the CPU, at no known cost."""


machine = Machine()


class CoreMLError(RuntimeError):
    """As the native part raises for whatever Core ML says."""


@functools.lru_cache(maxsize=8)
def _package(path, _written_ns):
    return MilPackage.open(path)


def package_at(path):
    path = Path(path)
    return _package(path, (path / "Data" / "com.apple.CoreML" / "model.mlmodel").stat().st_mtime_ns)


class _MLModelProxy:
    def __init__(self, path, compute_units, function_name, optimization_hints, asset):
        folder = Path(path)
        if folder.suffix != ".mlmodelc" or not (folder / MARK).is_file():
            raise CoreMLError(f"Unable to load model: {path} is not a compiled model")
        if compute_units not in COMPUTE_UNITS or optimization_hints or asset is not None:
            raise CoreMLError(f"not simulated: {compute_units}, {optimization_hints}, {asset}")
        package = package_at(folder / PACKAGE)
        several = bool(package._description.functions)
        if function_name and machine.macos < FUNCTIONS_FROM:
            raise CoreMLError("functionName is only available on macOS 15 or later")
        if function_name and not several:
            raise CoreMLError(f"the model has no functions by name, and {function_name} was asked for")
        if function_name and function_name not in package.functions:
            raise CoreMLError(f"function {function_name} is not found in the model")
        self.name = function_name or package.default_function
        self._function = MilFunction(package, self.name, "stored")
        machine.opened.append((self.name, compute_units))

    def predict(self, data, state):
        assert state is None, "not simulated"
        specs = {spec.name: spec for spec in self._function.inputs}
        if set(data) != set(specs):
            raise CoreMLError(f"features {sorted(data)} were given, {sorted(specs)} are needed")
        for name, value in data.items():
            spec = specs[name]
            wanted = np.float32 if spec.element.is_float else spec.element.stored
            if not isinstance(value, np.ndarray) or value.dtype != wanted or value.shape != spec.shape:
                raise CoreMLError(f"MultiArray {name}: {value!r:.40} is not {np.dtype(wanted)} {spec.shape}")
        machine.predicted.append(self.name)
        found = self._function(data)
        return {name: value.astype(np.float32) for name, value in found.items()}  # float16 is given so, too

    @staticmethod
    def compileModel(path):  # noqa: N802
        machine.compiled.append(Path(path).name)
        try:
            package = package_at(path)
        except Exception as error:
            raise CoreMLError(f"compiler error: {error}") from error
        if machine.macos[0] < SPECIFICATIONS[package.specification_version]:
            raise CoreMLError(f"compiler error: specification version {package.specification_version} is not supported")
        target = Path(tempfile.mkdtemp(), Path(path).stem).with_suffix(".mlmodelc")
        shutil.copytree(path, target / PACKAGE)
        (target / MARK).write_bytes(b"simulated")
        return str(target)

    @staticmethod
    def get_compute_plan(path, compute_units):
        from coremltools.models.compute_plan import MLComputePlan

        if machine.macos < PLANS_FROM:
            raise CoreMLError("MLComputePlan is only available on macOS 14.4 or later")
        return MLComputePlan(_MLComputePlanProxy(package_at(Path(path) / PACKAGE), compute_units))


class _MLComputePlanProxy:
    """A plan that the test made up (`Machine.plan`), over the operators of the real package."""

    def __init__(self, package, units):
        from coremltools.models import compute_plan as real

        self._units, self._told = units, {}
        functions = {name: self._function(real, package.program(name)) for name in package.functions}
        program = real.MLModelStructureProgram(functions=functions)
        self.model_structure = real.MLModelStructure(neuralnetwork=None, program=program, pipeline=None)

    def _function(self, real, program):
        constant = real.MLModelStructureProgramOperation({}, "const", [], [], None)
        operations = [constant]
        for place, each in enumerate(program.operations):
            operation = real.MLModelStructureProgramOperation({}, f"ios18.{each.type}", [], [], None)
            plan = machine.plan or (lambda *_: ("MLCPUComputeDevice", None))
            self._told[id(operation)] = plan(each.type, place, self._units)
            operations.append(operation)
        outputs = [spec.name for spec in program.outputs]
        return real.MLModelStructureProgramFunction([], real.MLModelStructureProgramBlock([], operations, outputs))

    def get_compute_device_usage_for_mlprogram_operation(self, operation):
        from coremltools.models import compute_device
        from coremltools.models.compute_plan import MLComputePlanDeviceUsage

        name, _ = self._told.get(id(operation), (None, None))
        if name is None:
            return None
        device = getattr(compute_device, name)(DEVICES[name]())
        return MLComputePlanDeviceUsage(device, [device])

    def get_estimated_cost_for_mlprogram_operation(self, operation):
        from coremltools.models.compute_plan import MLComputePlanCost

        _, cost = self._told.get(id(operation), (None, None))
        return None if cost is None else MLComputePlanCost(cost)


class _MLCPUComputeDeviceProxy:
    pass


class _MLGPUComputeDeviceProxy:
    pass


class _MLNeuralEngineComputeDeviceProxy:
    pass


DEVICES = {
    "MLCPUComputeDevice": _MLCPUComputeDeviceProxy,
    "MLGPUComputeDevice": _MLGPUComputeDeviceProxy,
    "MLNeuralEngineComputeDevice": _MLNeuralEngineComputeDeviceProxy,
}
