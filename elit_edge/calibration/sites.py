"""The matrix products of a bundle's graphs: one for each linear layer of the model, under the name of its weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from elit_edge.errors import CalibrationError
from elit_edge.manifest import Role
from elit_edge.model.bundle_weights import TRANSPOSED

WEIGHT = ".weight"
ROLES: tuple[Role, ...] = ("condition", "velocity")
"""The graphs that a precision has: any budget, any batch."""


@dataclass(frozen=True)
class Site:
    """One product of an activation with a weight."""

    name: str
    """The layer's: "blocks.3.mlp.fc2"."""
    role: Role
    node: str
    source: str
    """The activation [..., inputs], by the name of its value in the graph."""
    weight: str
    """The initializer, [inputs, outputs] for a MatMul and [outputs, inputs] for a Gemm."""
    inputs: int
    outputs: int

    @property
    def input_axis(self) -> int:
        """Of the weight."""
        return 0 if self.weight.endswith(TRANSPOSED) else 1


def find_sites(model: ir.Model, role: Role) -> tuple[Site, ...]:
    """All products with weights in a graph, in the order of use.

    Raises:
        CalibrationError: a product that no scheme can take; the message names the node.
    """
    found = []
    for node in model.graph:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        source, weight = node.inputs[:2]
        _check_form(node)
        if weight is None or source is None or weight.const_value is None:
            continue  # two activations: attention of an older opset
        transposed = node.attributes.get_int("transB", 0) == 1
        name = str(weight.name)
        if weight.const_value.dtype != ir.DataType.FLOAT or len(weight.const_value.shape) != 2:
            raise CalibrationError(
                f"node {node.name} multiplies by {name}, {weight.const_value.dtype.name} {weight.const_value.shape}; "
                "schemes take float32 matrices: calibrate a bundle that `elit-edge export` made"
            )
        if transposed == name.endswith(TRANSPOSED) or not name.removesuffix(TRANSPOSED).endswith(WEIGHT):
            raise CalibrationError(
                f"node {node.name} multiplies by {name}, which is not stored as elit-edge stores a layer's weight; "
                "calibrate a bundle that `elit-edge export` of this version made"
            )
        shape = [int(size) for size in weight.const_value.shape.numpy()]
        inputs, outputs = shape[::-1] if transposed else shape
        layer = name.removesuffix(TRANSPOSED).removesuffix(WEIGHT)
        found.append(Site(layer, role, str(node.name), str(source.name), name, inputs, outputs))
    return tuple(found)


def _check_form(node: ir.Node) -> None:
    """Products that elit-edge does not write, and a scheme would take for others."""
    first = node.inputs[0]
    plain = {"transA": 0, "alpha": 1.0, "beta": 1.0}
    odd = [name for name, value in plain.items() if name in node.attributes and node.attributes[name].value != value]
    if odd or (first is not None and first.const_value is not None):
        found = f"has {', '.join(odd)}" if odd else "multiplies a constant by an activation"
        raise CalibrationError(
            f"node {node.name}, a {node.op_type}, {found}, and no scheme takes that; "
            "calibrate a bundle that `elit-edge export` made"
        )


def weight_of(models: Mapping[Role, ir.Model], site: Site) -> npt.NDArray[np.float32]:
    """The site's weight [inputs, outputs], read from the file.

    Raises:
        CalibrationError: it is not finite.
    """
    tensor = models[site.role].graph.initializers[site.weight].const_value
    assert tensor is not None
    values = tensor.numpy()
    if not np.isfinite(values).all():
        raise CalibrationError(
            f"{site.weight} holds values that are not finite: the model is broken, and so is any precision of it; "
            "export a sound checkpoint"
        )
    return np.array(values if site.input_axis == 0 else values.T, np.float32, order="C")
