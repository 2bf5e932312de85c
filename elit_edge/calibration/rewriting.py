"""The graphs of a precision: float32 graphs with their matrix products rewritten, over a weights file of their own.

Standard operators alone, in the form that ONNX Runtime, OpenVINO and TensorRT take: QuantizeLinear and DequantizeLinear
around an activation, symmetric, int8; DequantizeLinear after a weight, a scale for each output or block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from elit_edge.calibration.record import Treatment
from elit_edge.calibration.rounding import Rounded
from elit_edge.calibration.search import Choice
from elit_edge.calibration.sites import Site
from elit_edge.calibration.smoothing import Scaling
from elit_edge.export.weights_file import Stored
from elit_edge.manifest import Role

SCALE = ".scale"
"""Ends the name of an integer weight's scales."""
ZERO = "int8_zero"


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one site."""

    site: Site
    treatment: Treatment
    weight: Rounded
    """As stored: smoothed."""
    bits: int
    """Of a stored weight: 8 or 4."""
    choice: Choice | None = None
    """How the input is quantized; for `int8` alone."""


def stored_weights(
    models: Mapping[Role, ir.Model], plans: Mapping[str, LayerPlan], scalings: list[Scaling]
) -> dict[str, Stored]:
    """All that the weights file of the precision holds.

    Args:
        models: the float32 graphs.
        plans: by the name of the layer.
        scalings: what smoothing does to tensors that stay in float32.
    """
    by_weight = {plan.site.weight: plan for plan in plans.values()}
    found: dict[str, Stored] = {}
    for name, tensor in _external(models.values()):
        if (plan := by_weight.get(name)) is not None:
            found[name], found[name + SCALE] = _stored(plan)
        else:
            own = [scaling for scaling in scalings if scaling.tensor == name]
            found[name] = Stored(ir.DataType.FLOAT, _sizes(tensor), partial(_scaled, tensor, own))
    return found


def rewrite(model: ir.Model, plans: Mapping[str, LayerPlan], tensors: Mapping[str, ir.ExternalTensor]) -> None:
    """Turn a float32 graph into that of the precision, in place."""
    graph = model.graph
    by_node = {plan.site.node: plan for plan in plans.values()}
    for name, _ in list(_external([model])):
        value = graph.initializers[name]
        value.const_value = tensors[name]
        value.type = ir.TensorType(tensors[name].dtype)
    for node in list(graph):
        plan = by_node.get(str(node.name))
        weight = node.inputs[1] if plan is not None else None
        if plan is None or weight is None or str(weight.name) != plan.site.weight:
            continue
        scales = _initializer(graph, tensors[plan.site.weight + SCALE])
        if plan.treatment == "int8-dynamic":
            _multiply_integers(graph, node, plan, scales)
            continue
        if plan.choice is not None:
            node.replace_input_with(0, _rounded_input(graph, node, plan.choice))
        node.replace_input_with(1, _restored(graph, node, plan, weight, scales))
    for value in list(graph.initializers.values()):
        if not value.uses():
            del graph.initializers[str(value.name)]
    ordered = sorted(graph.initializers.items())
    graph.initializers.clear()
    graph.initializers.update(ordered)


def _stored(plan: LayerPlan) -> tuple[Stored, Stored]:
    """The integers as the graph's initializer stands, and their scales."""
    values, scales = plan.weight.values, plan.weight.scales
    if plan.site.input_axis == 1:
        values, scales = values.T, scales.T
    if len(plan.weight.scales) == 1:
        scales = scales.reshape(-1)
    dtype = ir.DataType.INT8 if plan.bits == 8 else ir.DataType.INT4
    return (
        Stored(dtype, values.shape, lambda: np.asarray(values) if plan.bits == 8 else packed(values)),
        Stored(ir.DataType.FLOAT, scales.shape, lambda: scales.astype("<f4")),
    )


def packed(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Numbers of four bits as bytes, the first of two in the low half."""
    flat = values.reshape(-1).astype(np.uint8) & np.uint8(0xF)
    return flat[0::2] | (flat[1::2] << np.uint8(4))


def _external(models: Iterable[ir.Model]) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for model in models:
        for name, value in model.graph.initializers.items():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield name, value.const_value


def _sizes(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape.numpy())


def _scaled(tensor: ir.TensorProtocol, scalings: list[Scaling]) -> npt.NDArray[np.float32]:
    values = tensor.numpy()
    for scaling in scalings:
        values = scaling.apply(values)
    return values.astype("<f4")


def _initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """A value of the graph with these numbers, made once for a name."""
    name = str(tensor.name)
    if name not in graph.initializers:
        value = ir.Value(
            name=name, const_value=tensor, shape=ir.Shape(_sizes(tensor)), type=ir.TensorType(tensor.dtype)
        )
        graph.initializers.add(value)
    return graph.initializers[name]


def _constant(graph: ir.Graph, name: str, numbers: npt.NDArray[Any] | np.generic) -> ir.Value:
    return _initializer(graph, ir.tensor(np.asarray(numbers), name=name))


def _before(
    graph: ir.Graph, node: ir.Node, operator: str, inputs: list[ir.Value], name: str, count: int = 1, **attributes: int
) -> tuple[ir.Value, ...]:
    """A node before another; its outputs are named after it."""
    made = ir.Node("", operator, inputs, [ir.AttrInt64(key, value) for key, value in attributes.items()],
                   num_outputs=count, name=name)  # fmt: skip
    for index, value in enumerate(made.outputs):
        value.name = name if count == 1 else f"{name}.{index}"
    graph.insert_before(node, made)
    return tuple(made.outputs)


def _rounded_input(graph: ir.Graph, node: ir.Node, choice: Choice) -> ir.Value:
    site, source = choice.site, node.inputs[0]
    assert source is not None
    if choice.smoothing is not None and not choice.folded:
        divisor = _constant(graph, f"{site.name}.smoothing", 1 / choice.smoothing)
        (source,) = _before(graph, node, "Mul", [source, divisor], f"{site.name}.smoothed")
    scale = _constant(graph, f"{site.name}.input{SCALE}", np.float32(choice.scale))
    zero = _constant(graph, ZERO, np.int8(0))
    (integers,) = _before(graph, node, "QuantizeLinear", [source, scale, zero], f"{site.name}.input.int8")
    (restored,) = _before(graph, node, "DequantizeLinear", [integers, scale, zero], f"{site.name}.input.rounded")
    return restored


def _restored(graph: ir.Graph, node: ir.Node, plan: LayerPlan, weight: ir.Value, scales: ir.Value) -> ir.Value:
    """The weight in float32: a scale for each output, or for each block of inputs."""
    name, axis, blocks = f"{plan.site.name}.weight.restored", plan.site.input_axis, len(plan.weight.scales)
    if blocks == 1:
        return _before(graph, node, "DequantizeLinear", [weight, scales], name, axis=1 - axis)[0]
    size = plan.site.inputs // blocks
    return _before(graph, node, "DequantizeLinear", [weight, scales], name, axis=axis, block_size=size)[0]


def _multiply_integers(graph: ir.Graph, node: ir.Node, plan: LayerPlan, scales: ir.Value) -> None:
    """The product in integers, its input's range taken as it comes."""
    name, (source, weight) = plan.site.name, node.inputs[:2]
    assert source is not None
    assert weight is not None
    integers, step, zero = _before(graph, node, "DynamicQuantizeLinear", [source], f"{name}.input", 3)
    (sums,) = _before(graph, node, "MatMulInteger", [integers, weight, zero], f"{name}.sums")
    cast = ir.Node("", "Cast", [sums], [ir.AttrInt64("to", int(ir.DataType.FLOAT))], name=f"{name}.sums.float")
    cast.outputs[0].name = f"{name}.sums.float"
    graph.insert_before(node, cast)
    (both,) = _before(graph, node, "Mul", [step, scales], f"{name}.steps")
    (product,) = _before(graph, node, "Mul", [cast.outputs[0], both], f"{name}.product")
    ir.convenience.replace_all_uses_with(node.outputs[0], product)
    product.shape, product.type = node.outputs[0].shape, node.outputs[0].type
    graph.remove(node, safe=True)
