"""The graphs of a 16-bit precision: every number that can be in 16 bits, inputs and outputs as they were.

What stays in float32: the angles of the timestep (their frequencies go down to 1e-4), the root mean square norms of
Read and Write from their sum of squares to their division (65504 is the most that fp16 holds), and nodes that are named
because they were seen to come near that number (peaks.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from elit_edge.errors import ExportError
from elit_edge.export.float16 import Reason
from elit_edge.export.weights_file import Stored

TYPES = {
    "fp16": (ir.DataType.FLOAT16, np.dtype(np.float16)),
    "bf16": (ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
FLOAT = ir.DataType.FLOAT
ALWAYS_FLOAT = {"Resize": 2}
"""The place of an input that an operator takes in float32, whatever else it computes in: the scales of Resize."""


def stored_halves(models: Iterable[ir.Model], precision: str) -> dict[str, Stored]:
    """All that the weights file of the precision holds. A node that overflows has its weights in 16 bits all the same.

    Raises:
        ExportError: a weight that fp16 cannot hold.
    """
    dtype, own = TYPES[precision]
    found: dict[str, Stored] = {}
    for model in models:
        wide = left_wide(model.graph)
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor | ir.LazyTensor):
                shape = tuple(int(size) for size in tensor.shape.numpy())
                narrowed = Stored(dtype, shape, partial(_narrowed, tensor, own, name))
                found[name] = Stored(FLOAT, shape, tensor.numpy) if _stays_wide(value, wide) else narrowed
    return found


def narrow(
    model: ir.Model,
    precision: str,
    tensors: Mapping[str, ir.ExternalTensor],
    overflowing: Collection[str] = (),
) -> None:
    """Turn a float32 graph into one of 16 bits, in place.

    Args:
        model: the graph.
        precision: of `TYPES`.
        tensors: what the weights file of the precision holds.
        overflowing: names of nodes that have to stay in float32.
    """
    dtype, own = TYPES[precision]
    graph = model.graph
    wide = left_wide(graph, overflowing)
    for name, value in graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        if name in tensors:
            tensor = tensors[name]
        elif tensor.dtype == FLOAT and not _stays_wide(value, wide):
            tensor = ir.tensor(_narrowed(tensor, own, name), name=name)
        value.const_value, value.type = tensor, ir.TensorType(tensor.dtype)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        _compute_in(FLOAT if node in wide else dtype, graph, node, casts)
    for place, output in enumerate(list(graph.outputs)):
        if output.dtype == dtype:
            graph.outputs[place] = _widened(graph, output, precision)


def _compute_in(
    dtype: ir.DataType, graph: ir.Graph, node: ir.Node, casts: dict[tuple[ir.Value, ir.DataType], ir.Value]
) -> None:
    """Let a node take and give its floating-point numbers in this type; what has another is cast once."""
    floats = {FLOAT, *(each for each, _ in TYPES.values())}
    for place, value in enumerate(list(node.inputs)):
        if value is None or value.dtype not in floats - {dtype} or place == ALWAYS_FLOAT.get(node.op_type):
            continue
        if (value, dtype) not in casts:
            casts[value, dtype] = _cast(graph, node, value, dtype)
        node.replace_input_with(place, casts[value, dtype])
    for made in node.outputs:
        if made.dtype == FLOAT:
            made.type = ir.TensorType(dtype)


def _widened(graph: ir.Graph, output: ir.Value, precision: str) -> ir.Value:
    """The output in float32, under its own name."""
    name = str(output.name)
    output.name = f"{name}.{precision}"
    node = ir.Node("", "Cast", [output], [ir.AttrInt64("to", int(FLOAT))], name=f"{name}.float")
    (last,) = node.outputs
    last.name, last.shape, last.type = name, output.shape, ir.TensorType(FLOAT)
    graph.append(node)
    return last


def left_wide(graph: ir.Graph, overflowing: Collection[str] = ()) -> dict[ir.Node, Reason]:
    """The nodes that stay in float32, and why: by their kind, or because they are named."""
    found: dict[ir.Node, Reason] = {node: "overflow" for node in graph if node.name in overflowing}
    for node in graph:
        if node.op_type in ("Cos", "Sin"):
            found |= dict.fromkeys(_above(node), "angles")
        if node.op_type == "ReduceL2":
            found |= dict.fromkeys(_to_division(node), "sum of squares")
    return found


def _stays_wide(value: ir.Value, wide: Collection[ir.Node]) -> bool:
    return all(use.node in wide or use.idx == ALWAYS_FLOAT.get(use.node.op_type) for use in value.uses())


def _above(node: ir.Node) -> set[ir.Node]:
    """A node and all that it is computed from."""
    found = {node}
    for value in node.inputs:
        if value is not None and (producer := value.producer()) is not None:
            found |= _above(producer)
    return found


def _to_division(node: ir.Node) -> set[ir.Node]:
    """A node and what follows it, up to and with the next division."""
    found = {node}
    if node.op_type != "Div":
        for value in node.outputs:
            for use in value.uses():
                found |= _to_division(use.node)
    return found


def _cast(graph: ir.Graph, before: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    name = f"{value.name}.{dtype.name.lower()}"
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], name=name)
    (made,) = node.outputs
    made.name, made.shape, made.type = name, value.shape, ir.TensorType(dtype)
    graph.insert_before(before, node)
    return made


def _narrowed(tensor: ir.TensorProtocol, dtype: np.dtype[Any], name: str) -> npt.NDArray[Any]:
    values = tensor.numpy()
    with np.errstate(over="ignore"):
        narrowed = values.astype(dtype)
    if not np.isfinite(narrowed.astype(np.float32)).all():
        raise ExportError(
            f"{name} holds {np.abs(values).max():.3g}, more than {dtype.name} can hold; choose another precision"
        )
    return narrowed
