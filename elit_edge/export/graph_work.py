"""The work of a graph, counted in the graph itself: operations of its products, bytes of weights and activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from elit_edge.budget import Work, velocity_work
from elit_edge.errors import ExportError
from elit_edge.export.onnx_graphs import INPUTS
from elit_edge.model_config import ModelConfig

ROLE_INPUTS = frozenset(name for names in INPUTS.values() for name in names)
"""All other inputs of a graph are weights that are not bound yet."""
UNKNOWN = frozenset(
    [
        *("ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
        *("GRU", "LSTM", "RNN", "If", "Loop", "Scan"),
    ]
)
"""They multiply and add, or hold graphs of their own: counted as nothing they would make a graph look light."""


def check_work(model: ir.Model, config: ModelConfig, latents: int) -> Work:
    """Count a velocity graph of one budget, and hold it to the arithmetic that budgets without a graph rely on.

    Raises:
        ExportError: they differ, or the graph cannot be counted.
    """
    counted, known = work_of(model), velocity_work(config, latents)
    if counted != known:
        raise ExportError(
            f"graph {model.graph.name} is {counted}, and a step at {latents} latents should be {known}: the exporter "
            "changed the model; this is a defect of elit-edge, or of the torch or onnxscript in use: please report it"
        )
    return counted


def work_of(model: ir.Model) -> Work:
    """Count a graph of fixed shapes, such as `specialise` makes, in the types that it has.

    Args:
        model: its weights are external or lazy initializers, or inputs that are not bound yet; small constants that
            lie in the graph itself are none. What follows from both alone is computed once, not each time: neither its
            products nor its bytes count.

    Returns:
        Operations of MatMul, Gemm, Conv and Attention (its two products), two a multiply-add; bytes of the weights
        that are used, each once; bytes of what those four read and write beside that, each value once a node.

    Raises:
        ExportError: a shape is unknown, or an operator multiplies in a way that is not known here.
    """
    graph = model.graph
    unbound = [value for value in graph.inputs if value.name not in ROLE_INPUTS]
    bound = list(graph.initializers.values())
    weights = [value for value in (*unbound, *bound) if value.uses() and _is_weight(value)]
    constant = {*unbound, *bound}
    flops = moved = 0
    for node in graph:
        if node.domain or node.op_type in UNKNOWN:
            raise ExportError(
                f"graph {graph.name}: {node.domain or 'onnx'} {node.op_type} ({node.name}) cannot be counted; "
                f"the products that can are {', '.join(PRODUCTS)}"
            )
        read = {value for value in node.inputs if value is not None}
        if read <= constant:
            constant.update(node.outputs)
        elif node.op_type in PRODUCTS:
            flops += 2 * PRODUCTS[node.op_type](node)
            moved += sum(map(_bytes, {*read, *node.outputs} - constant))
    return Work(flops=flops, weight_bytes=sum(map(_bytes, weights)), activation_bytes=moved)


def _is_weight(value: ir.Value) -> bool:
    return value.const_value is None or isinstance(value.const_value, ir.ExternalTensor | ir.LazyTensor)


def _matmul(node: ir.Node) -> int:
    return math.prod(_shape(node.outputs[0])) * _shape(node.inputs[0])[-1]


def _gemm(node: ir.Node) -> int:
    transposed = node.attributes.get_int("transA", 0)
    return math.prod(_shape(node.outputs[0])) * _shape(node.inputs[0])[0 if transposed else 1]


def _conv(node: ir.Node) -> int:
    return math.prod(_shape(node.outputs[0])) * math.prod(_shape(node.inputs[1])[1:])


def _attention(node: ir.Node) -> int:
    """Each number of a query meets every key, each number of the output every value, whatever a mask hides."""
    if any(value is not None for value in node.inputs[4:]):
        raise ExportError(f"Attention {node.name} with keys of earlier calls cannot be counted")
    keys = _shape(node.inputs[1])[-2]
    return keys * (math.prod(_shape(node.inputs[0])) + math.prod(_shape(node.outputs[0])))


PRODUCTS: dict[str, Callable[[ir.Node], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "Attention": _attention,
}
"""Multiply-adds of each operator that is counted."""


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    if value is None or value.shape is None or not value.shape.is_static():
        raise ExportError(
            f"the shape of {value and value.name} is {value and value.shape}: the work of a graph is counted once all "
            "its shapes are fixed"
        )
    return value.shape.numpy()


def _bytes(value: ir.Value) -> int:
    if value.dtype is None:
        raise ExportError(f"the type of {value.name} is not known, so its bytes cannot be counted")
    return math.ceil(math.prod(_shape(value)) * value.dtype.bitwidth / 8)
