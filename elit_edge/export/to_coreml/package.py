"""Functions into .mlpackage folders: from iOS 18 all in one over one copy of the weights, before that one in each."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elit_edge.bundle_files import PACKAGE_INDEX
from elit_edge.errors import ExportError
from elit_edge.export.mil.library import coremltools
from elit_edge.export.to_coreml.ane import AneLayout
from elit_edge.export.to_coreml.condition import write_condition
from elit_edge.export.to_coreml.gpu import GpuLayout
from elit_edge.export.to_coreml.layout import Layout
from elit_edge.export.to_coreml.recipe import Recipe
from elit_edge.export.to_coreml.velocity import write_velocity
from elit_edge.export.to_coreml.weights import Weights
from elit_edge.manifest import CoreMlFunction, TensorSpec
from elit_edge.model_config import ModelConfig

LAYOUTS: dict[str, type[Layout]] = {"gpu": GpuLayout, "ane": AneLayout}
CONDITION_ROWS = 16
"""(time, label) pairs of one call: the weights are read once for all of them."""
CONDITION = "condition"
"""As a part that may be wide."""
ALONE = "main"
"""What Core ML calls the function of a package that holds no other."""
SUFFIX = ".mlpackage"
MODEL = "Data/com.apple.CoreML/model.mlmodel"
DATE = "com.github.apple.coremltools.conversion_date"
FIELDS = {"description": "shortDescription", "author": "author", "license": "license", "version": "versionString"}
"""The metadata that Core ML has fields for."""

Report = Callable[[float], None]


@dataclass(frozen=True)
class Emission:
    """What to write: a model's arrays in the form of a recipe."""

    config: ModelConfig
    weights: Weights
    recipe: Recipe
    metadata: Mapping[str, str]
    """For the package's own fields: "description", "author", "license", "version", and any other name."""

    @property
    def dtype(self) -> type[np.float16 | np.float32]:
        return np.float32 if self.recipe.precision == "fp32" else np.float16


def function_name(latents: int, batch: int) -> str:
    """Of a velocity inside its package."""
    return f"latents_{latents:02d}" + (f"_batch_{batch}" if batch > 1 else "")


def write_velocities(
    emission: Emission,
    folder: Path,
    budgets: tuple[int, ...],
    *,
    batches: tuple[int, ...],
    report: Report = lambda _share: None,
) -> tuple[CoreMlFunction, ...]:
    """Write the velocity at every budget and batch: from iOS 18 in one package, before that each in one of its own.

    Args:
        emission: what to write.
        folder: of the packages; exists.
        budgets: latents a group, each once.
        batches: samples of one call.
        report: told the share that is done, 0..1.

    Returns:
        The functions; their package is the name of a folder in `folder`.

    Raises:
        ExportError: coremltools refuses the graph.
    """
    programs: dict[str, Any] = {}
    described = []
    wanted = [(latents, batch) for latents in budgets for batch in batches]
    default = function_name(max(budgets), min(batches))
    multifunction = emission.recipe.multifunction
    with _writing(emission.recipe):
        for done, (latents, batch) in enumerate(wanted):
            report(done / len(wanted))
            name = function_name(latents, batch)
            programs[name], inputs, outputs = _velocity(emission, latents, batch)
            package = "velocity" if multifunction else name
            described.append(_described(emission, "velocity", package, name, latents, batch, inputs, outputs))
            if not multifunction:
                _save(emission, folder / f"{name}{SUFFIX}", programs, name)
                programs.clear()
        if multifunction:
            _save(emission, folder / f"velocity{SUFFIX}", programs, default)
    return tuple(described)


def write_conditions(emission: Emission, folder: Path) -> CoreMlFunction:
    """Write the conditions, `CONDITION_ROWS` pairs of time and label in a call.

    Raises:
        ExportError: coremltools refuses the graph.
    """
    ct = coremltools()
    mil, types = ct.converters.mil.mil, ct.converters.mil.mil.types
    rows = CONDITION_ROWS
    inputs = {
        "t": mil.Placeholder((rows,), types.fp32),
        "y": mil.Placeholder((rows,), types.int32),
    }
    with _writing(emission.recipe):
        with mil.Function(inputs, _target(emission.recipe)) as function:
            inside = np.float32 if CONDITION in emission.recipe.wide else emission.dtype
            found = write_condition(
                emission.weights, function.inputs["t"], function.inputs["y"], inside, emission.dtype
            )
            function.set_outputs([found])
        _save(emission, folder / f"condition{SUFFIX}", {"condition": function}, "condition")
    specs = (TensorSpec(name="t", dtype="float32", shape=(rows,)), TensorSpec(name="y", dtype="int32", shape=(rows,)))
    outputs = (_float_spec(emission, "modulations", (rows, emission.config.modulation_size)),)
    return _described(emission, "condition", "condition", "condition", None, rows, specs, outputs)


@contextmanager
def _writing(recipe: Recipe) -> Iterator[None]:
    """Raises:
    ExportError: coremltools refuses the graph.
    """
    try:
        yield
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:  # whatever its checks raise
        raise ExportError(f"coremltools does not write this model for iOS {recipe.ios}: {error}") from error


def _velocity(
    emission: Emission, latents: int, batch: int
) -> tuple[Any, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    ct, config = coremltools(), emission.config
    mil, types = ct.converters.mil.mil, ct.converters.mil.mil.types
    layout = LAYOUTS[emission.recipe.layout](config, emission.weights, emission.recipe, batch)
    kind = types.fp16 if emission.dtype is np.float16 else types.fp32
    shapes = {
        "x": (batch, config.in_channels, config.image_size, config.image_size),
        "modulations": layout.modulation_shape(),
    }
    placeholders = {name: mil.Placeholder(shape, kind) for name, shape in shapes.items()}
    with mil.Function(placeholders, _target(emission.recipe)) as function:
        found = write_velocity(layout, function.inputs["x"], function.inputs["modulations"], latents)
        function.set_outputs([found])
    inputs = tuple(_float_spec(emission, name, shape) for name, shape in shapes.items())
    return function, inputs, (_float_spec(emission, "velocity", shapes["x"]),)


def _float_spec(emission: Emission, name: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name=name, dtype="float16" if emission.dtype is np.float16 else "float32", shape=shape)


def _described(
    emission: Emission,
    role: str,
    package: str,
    name: str,
    latents: int | None,
    batch: int,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> CoreMlFunction:
    return CoreMlFunction(
        role=role,  # type: ignore[arg-type]  # one of the two
        package=f"{package}{SUFFIX}",
        name=name if emission.recipe.multifunction else None,
        latents=latents,
        batch=batch,
        inputs=inputs,
        outputs=outputs,
    )


def _target(recipe: Recipe) -> Any:
    return getattr(coremltools().target, f"iOS{recipe.ios}")


def _save(emission: Emission, path: Path, functions: dict[str, Any], default: str) -> None:
    """Write one package. No pass rewrites the graph: it is saved as it was written, the same for the same inputs."""
    ct = coremltools()
    program = ct.converters.mil.mil.Program()
    if emission.recipe.multifunction:
        for name, function in functions.items():
            program.add_function(name, function)
        program.default_function_name = default
        program.export_as_multifunction = True
    else:
        ((_, function),) = functions.items()
        program.add_function(ALONE, function)
    program.skip_all_passes = True
    with redirect_stderr(io.StringIO()):  # it draws bars of its own over ours
        ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=_target(emission.recipe),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            package_dir=str(path),  # else a copy of it stays among the temporary files until this process ends
            skip_model_load=True,
        )
    _describe(path, emission.metadata)


def _describe(path: Path, metadata: Mapping[str, str]) -> None:
    """Put metadata into a package, and take out what differs from one writing to the next: a date, and names drawn at
    random."""
    spec = coremltools().utils.load_spec(str(path))
    fields = spec.description.metadata
    fields.userDefined.pop(DATE, None)
    for name, value in metadata.items():
        if name in FIELDS:
            setattr(fields, FIELDS[name], value)
        else:
            fields.userDefined[name] = value
    (path / MODEL).write_bytes(spec.SerializeToString(deterministic=True))
    index = json.loads((path / PACKAGE_INDEX).read_text())
    names = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])) for old, item in index["itemInfoEntries"].items()}
    index["itemInfoEntries"] = {names[old]: item for old, item in index["itemInfoEntries"].items()}
    index["rootModelIdentifier"] = names[index["rootModelIdentifier"]]
    (path / PACKAGE_INDEX).write_text(json.dumps(index, indent=4, sort_keys=True))
