"""From the torch model to ONNX graphs: one trace, split by role, specialised to budgets.

The graphs follow from the config alone. The model is traced without numbers, and its weights are inputs of the graph
while it is optimised, so that nothing folds, copies or renames them: they become initializers last, by name, and every
graph points at the same bytes of one file. The budget of a dynamic graph is the length of its int64 input `latents`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.convenience import extract, replace_all_uses_with
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from elit_edge.errors import ExportError
from elit_edge.export.quiet import quietly
from elit_edge.manifest import Role
from elit_edge.model.bundle_weights import TRANSPOSED
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig

OPSET = 23
"""The first with Attention; ONNX Runtime runs both Attention and Gelu as one kernel each."""

BATCH, LATENTS = "batch", "latents"
FOLD_LIMIT_BYTES = 1 << 20
EXAMPLE_BATCH, EXAMPLE_LATENTS = 2, 3
"""Sizes of the traced example: none is 1, which the tracer would take for a constant."""


@dataclass(frozen=True)
class Example:
    """What the tracer is shown."""

    module: nn.Module
    """Holds what is traced as its attribute `model`."""
    inputs: Mapping[str, Tensor]
    """What it is called with, by name. No free size is 1, which the tracer would take for a constant."""
    free: Mapping[str, Mapping[int, Dim]]
    """The dimensions of each input that may have other sizes."""
    output: str
    """The name of its one result."""


class _Traced(nn.Module):
    """The model with its budget as the length of an input."""

    def __init__(self, model: DiffusionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor, y: Tensor, latents: Tensor | None = None) -> Tensor:
        return self.model(x, t, y, 1 if latents is None else latents.shape[0])


def trace(config: ModelConfig) -> ir.Model:
    """The whole model, x, t, y, latents -> v, with every weight as a further input under its torch name.

    Raises:
        ExportError: the tracer failed; the message holds its last words.
    """
    model = trace_without_numbers(lambda: _example(config))
    _measure_batch_on_x(model.graph)
    _name_modulations(model.graph)
    return model


def trace_without_numbers(build: Callable[[], Example]) -> ir.Model:
    """An optimised graph with every weight that it uses as a further input, under its name in the module's `model`.

    Args:
        build: makes the example; the tensors that it makes have shapes and no numbers.

    Raises:
        ExportError: the tracer failed; the message holds its last words.
    """
    words = io.StringIO()
    try:
        with quietly("torch.onnx"), contextlib.redirect_stdout(words), FakeTensorMode():
            program = _export(build())
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        tail = str(error).strip().splitlines()[-1:]
        raise ExportError(f"torch.onnx could not trace this model: {' '.join(tail)}") from error
    model: ir.Model = program.model
    graph = model.graph
    for weight in list(graph.initializers.values()):
        weight.const_value = None
        weight.name = str(weight.name).removeprefix("model.")
        graph.inputs.append(weight)
    graph.initializers.clear()
    _optimise(model)
    return model


def _example(config: ModelConfig) -> Example:
    model = DiffusionTransformer(config).eval()
    batch = Dim(BATCH)
    side = config.image_size
    inputs: dict[str, Tensor] = {
        "x": torch.zeros(EXAMPLE_BATCH, config.in_channels, side, side),
        "t": torch.zeros(EXAMPLE_BATCH),
        "y": torch.zeros(EXAMPLE_BATCH, dtype=torch.int64),
    }
    free: dict[str, dict[int, Dim]] = {name: {0: batch} for name in inputs}
    if config.is_elastic:
        inputs[LATENTS] = torch.zeros(min(EXAMPLE_LATENTS, config.latents_per_group), dtype=torch.int64)
        free[LATENTS] = {0: Dim(LATENTS, min=1, max=config.latents_per_group)}
    return Example(_Traced(model).eval(), inputs, free, "v")


def _export(example: Example) -> torch.onnx.ONNXProgram:
    program = torch.onnx.export(
        example.module,
        kwargs=dict(example.inputs),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes={name: dict(sizes) for name, sizes in example.free.items()},
        input_names=list(example.inputs),
        output_names=[example.output],
        optimize=False,
        verbose=False,
    )
    assert program is not None
    return program


def _optimise(model: ir.Model) -> None:
    optimize_ir(model, num_iterations=3, input_size_limit=FOLD_LIMIT_BYTES, output_size_limit=FOLD_LIMIT_BYTES)
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _measure_batch_on_x(graph: ir.Graph) -> None:
    """Take the batch size from x where the tracer took it from t or y, which the velocity does not see."""
    inputs = {value.name: value for value in graph.inputs}
    for node in graph:
        if node.op_type == "Shape" and node.inputs[0] in (inputs["t"], inputs["y"]):
            node.replace_input_with(0, inputs["x"])


def _name_modulations(graph: ir.Graph) -> None:
    """Find where the condition ends: the sum with the ones of `1 + scale`."""
    unit = next(value for value in graph.inputs if value.name == "unit")
    (use,) = unit.uses()
    use.node.outputs[0].name = "modulations"


INPUTS: Mapping[Role, tuple[str, ...]] = {
    "condition": ("t", "y"),
    "velocity": ("x", "modulations", LATENTS),
    "model": ("x", "t", "y", LATENTS),
}
OUTPUTS: Mapping[Role, str] = {"condition": "modulations", "velocity": "v", "model": "v"}


def role_graph(traced: ir.Model, role: Role, config: ModelConfig) -> ir.Model:
    """The part of the traced model that a role computes, with the weights it uses as inputs."""
    source = traced.graph
    weights = [str(value.name) for value in source.inputs if value.name not in INPUTS["model"]]
    values = [name for name in INPUTS[role] if name != LATENTS or config.is_elastic]
    graph = extract(source, [*values, *weights], [OUTPUTS[role]])
    for value in [value for value in graph.inputs if value.name in weights and not value.uses()]:
        graph.inputs.remove(value)
    graph.name = role
    for value in graph.inputs:
        if value.name == "modulations":
            value.shape = ir.Shape([BATCH, config.modulation_size])
    return ir.Model(graph, ir_version=traced.ir_version, producer_name="elit-edge")


def specialise(model: ir.Model, latents: int) -> ir.Model:
    """A copy with every shape fixed: that many latents a group, batch 1."""
    graph = extract(model.graph, list(model.graph.inputs), list(model.graph.outputs))
    copy = ir.Model(graph, ir_version=model.ir_version, producer_name="elit-edge")
    for value in list(graph.inputs):
        if value.name == LATENTS:
            fixed = ir.tensor(np.zeros(latents, np.int64), name=LATENTS)
            graph.inputs.remove(value)
            constant = ir.Value(name="fixed_latents", const_value=fixed, shape=ir.Shape([latents]), type=value.type)
            replace_all_uses_with(value, constant)
            graph.initializers.add(constant)
    for node in graph:
        for value in node.outputs:
            value.shape = None
    for value in [*graph.inputs, *graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape([1 if dim == ir.SymbolicDim(BATCH) else dim for dim in value.shape])
    _optimise(copy)
    graph.name = f"{graph.name}_latents_{latents:02d}"
    return copy


def take_transposed_weights(model: ir.Model) -> None:
    """Replace each Transpose of a weight by that weight stored transposed, under a name of its own."""
    graph = model.graph
    by_name = {value.name: value for value in graph.inputs}
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "Transpose" or source is None or source.name not in by_name or source.producer() is not None:
            continue
        if source.shape is None or len(source.shape) != 2:
            continue
        name = f"{source.name}{TRANSPOSED}"
        if name not in by_name:
            shape = ir.Shape([source.shape[1], source.shape[0]])
            by_name[name] = ir.Value(name=name, shape=shape, type=source.type)
            graph.inputs.append(by_name[name])
        replace_all_uses_with(node.outputs[0], by_name[name])
        graph.remove(node, safe=True)
    for value in [value for value in graph.inputs if not value.uses() and value.name not in INPUTS["model"]]:
        graph.inputs.remove(value)


def bind_weights(model: ir.Model, tensors: Mapping[str, ir.TensorProtocol]) -> None:
    """Turn the weight inputs into initializers with these numbers; all initializers in the order of names."""
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in tensors]:
        graph.inputs.remove(value)
        value.const_value = tensors[str(value.name)]
        graph.initializers.add(value)
    ordered = sorted(graph.initializers.items())
    graph.initializers.clear()
    graph.initializers.update(ordered)
