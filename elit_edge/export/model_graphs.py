"""Every graph of the model's own, over one file of weights: for any budget, and of fixed shape for some budgets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from elit_edge.bundle_files import GRAPH_FOLDER
from elit_edge.export.graph_work import check_work
from elit_edge.export.half import narrow, stored_halves
from elit_edge.export.onnx_graphs import INPUTS, bind_weights, role_graph, specialise, take_transposed_weights, trace
from elit_edge.export.weights_file import Stored, stored_tensor, write_tensors
from elit_edge.manifest import Graph, Role, TensorSpec
from elit_edge.model.checkpoint import Checkpoint
from elit_edge.model.transformer import constants
from elit_edge.model_config import ModelConfig

Dtype = Literal["fp32", "fp16"]
"""What an export may write weights and graphs in."""
WEIGHTS_FILE = "weights.safetensors"
"""Beside the graphs: ONNX external data may not leave the folder of the graph."""
ROLES: tuple[Role, ...] = ("condition", "velocity", "model")
DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.INT64: "int64"}

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class ModelGraph:
    """A traced graph and its entry in the manifest."""

    entry: Graph
    model: ir.Model


def trace_graphs(config: ModelConfig, dtype: Dtype, budgets: Sequence[int], report: Report) -> tuple[ModelGraph, ...]:
    """All graphs, their weights still inputs.

    Args:
        config: of the model.
        dtype: of the entries; the graphs are float32 until `write_graphs`.
        budgets: latents a group of the graphs with fixed shapes; none for a plain SiT.
        report: progress.

    Raises:
        ExportError: the model cannot be traced, or a graph does other work than the model.
    """
    report("trace", 0)
    traced = trace(config)
    roles = {role: role_graph(traced, role, config) for role in ROLES}
    for model in roles.values():
        take_transposed_weights(model)
    graphs = [ModelGraph(_entry(role, None, dtype, model), model) for role, model in roles.items()]
    for done, latents in enumerate(budgets):
        report("specialise", done / len(budgets))
        model = specialise(roles["velocity"], latents)
        check_work(model, config, latents)
        graphs.append(ModelGraph(_entry("velocity", latents, dtype, model), model))
    return tuple(graphs)


def _entry(role: Role, latents: int | None, dtype: Dtype, model: ir.Model) -> Graph:
    name = role if latents is None else f"{role}_latents_{latents:02d}"
    values = {name for inputs in INPUTS.values() for name in inputs}
    return Graph(
        role=role,
        precision=dtype,
        latents=latents,
        path=f"{GRAPH_FOLDER}/{name}.onnx",
        weights=f"{GRAPH_FOLDER}/{WEIGHTS_FILE}",
        inputs=tuple(_spec(value) for value in model.graph.inputs if value.name in values),
        outputs=tuple(_spec(value) for value in model.graph.outputs),
    )


def _spec(value: ir.Value) -> TensorSpec:
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
    return TensorSpec(name=str(value.name), dtype=DTYPES[value.dtype], shape=shape)  # type: ignore[arg-type]


def write_weights(
    graphs: Sequence[ModelGraph], checkpoint: Checkpoint, dtype: Dtype, stage: Path, report: Report
) -> Mapping[str, ir.ExternalTensor]:
    """Write each weight that any graph uses once, in `dtype`, straight from the mapped checkpoint.

    Returns:
        Where each lies. The graphs have them as initializers afterwards, and nothing of the checkpoint.

    Raises:
        ExportError: a weight that float16 cannot hold.
    """
    weights = {**checkpoint.weights, **constants(checkpoint.config)}
    for graph in graphs:
        given = {spec.name for spec in graph.entry.inputs}
        names = [str(value.name) for value in graph.model.graph.inputs if value.name not in given]
        bind_weights(graph.model, {name: _lazy(name, weights) for name in names})
    models = [graph.model for graph in graphs]
    stored = stored_halves(models, dtype) if dtype == "fp16" else _stored_floats(models)
    (stage / GRAPH_FOLDER).mkdir()
    written, total = 0, sum(tensor.size_bytes for tensor in stored.values())

    def advance(count: int) -> None:
        nonlocal written
        written += count
        report("weights", written / total)

    tensors = write_tensors(stage / GRAPH_FOLDER / WEIGHTS_FILE, stored, advance)
    for model in models:
        for name, value in model.graph.initializers.items():
            value.const_value = tensors.get(name, value.const_value)
    return tensors


def write_graphs(
    graphs: Sequence[ModelGraph],
    tensors: Mapping[str, ir.ExternalTensor],
    stage: Path,
    overflowing: Callable[[ir.Graph], Collection[str]] = lambda _: (),
) -> None:
    """Write the graphs over the weights file, in the type of their entries.

    Args:
        graphs: after `write_weights`, which returned `tensors`.
        tensors: where each weight lies.
        stage: the folder of the bundle.
        overflowing: gives the names of a graph's nodes that fp16 leaves in float32.
    """
    for graph in graphs:
        if graph.entry.precision == "fp16":
            narrow(graph.model, "fp16", tensors, overflowing(graph.model.graph))
        ir.save(graph.model, stage / graph.entry.path)


def _lazy(name: str, weights: Mapping[str, Tensor]) -> ir.LazyTensor:
    """A weight whose numbers are read when they are asked for."""
    tensor = stored_tensor(name, weights)

    def numbers() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(tensor.to(torch.float32).numpy(), "<f4"), name=name)

    return ir.LazyTensor(numbers, dtype=ir.DataType.FLOAT, shape=ir.Shape(tensor.shape), name=name)


def _stored_floats(models: Sequence[ir.Model]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for model in models:
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if isinstance(tensor, ir.LazyTensor):
                found[name] = Stored(ir.DataType.FLOAT, tuple(map(int, tensor.shape.numpy())), tensor.numpy)
    return found
