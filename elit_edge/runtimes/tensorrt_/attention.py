"""ONNX graphs for parsers that do not know the Attention operator, which opset 23 brought.

TensorRT knows it since its networks have IAttention; JetPack 6 brings TensorRT 10.3, whose parser reads opset 9 to 20.
There an Attention becomes its two products and a softmax, which TensorRT fuses by itself.
Source: onnx-tensorrt, docs/operators.md and docs/Changelog.md.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from elit_edge.errors import BundleError, RuntimeUnavailable

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 20, 9
"""Every other operator of a bundle's graphs has the same form there."""
DEFAULTS = {"is_causal": 0, "softcap": 0.0, "qk_matmul_output_mode": 0}


def without_attention(path: Path) -> bytes:
    """The graph with products and a softmax in the place of each Attention, in opset 20; weights stay in their file.

    Raises:
        RuntimeUnavailable: the package onnx is not installed; nothing else on a device needs it.
        BundleError: an Attention of another form than bundles hold.
    """
    try:
        import onnx
    except ImportError as error:
        raise RuntimeUnavailable(
            "this TensorRT does not know the Attention operator, and rewriting the graph for it needs the package "
            "onnx; pip install 'elit-edge[tensorrt]'"
        ) from error
    model = onnx.load(path, load_external_data=False)
    known = {value.name: value.type.tensor_type for value in model.graph.value_info}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Attention":
            nodes += _plain(node, known, path)
            model.graph.initializer.append(_scale(node, known))
        else:
            nodes.append(node)
    del model.graph.node[:], model.opset_import[:]
    model.graph.node.extend(nodes)
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    data: bytes = model.SerializeToString()
    return data


def _plain(node: onnx.NodeProto, known: dict[str, onnx.TypeProto.Tensor], path: Path) -> list[onnx.NodeProto]:
    """softmax(q k' / sqrt(size)) v: queries are scaled first, so that no product leaves fp16's range for want of it."""
    from onnx.helper import get_attribute_value, make_node

    attributes = {each.name: get_attribute_value(each) for each in node.attribute}
    query, key, value, *more = node.input
    unlike = {name: found for name, found in attributes.items() if DEFAULTS.get(name) != found}
    if more or len(node.output) != 1 or unlike or key not in known:
        raise BundleError(
            f"{path}: {node.name} is an Attention as no bundle has it ({unlike or more}); export it again"
        )
    name = node.name
    return [
        make_node("Mul", [query, f"{name}.scale"], [f"{name}.q"], name=f"{name}.scaled"),
        make_node("Transpose", [key], [f"{name}.k"], name=f"{name}.transposed", perm=[0, 1, 3, 2]),
        make_node("MatMul", [f"{name}.q", f"{name}.k"], [f"{name}.scores"], name=f"{name}.scores"),
        make_node("Softmax", [f"{name}.scores"], [f"{name}.weights"], name=f"{name}.weights", axis=-1),
        make_node("MatMul", [f"{name}.weights", value], list(node.output), name=f"{name}.mixed"),
    ]


def _scale(node: onnx.NodeProto, known: dict[str, onnx.TypeProto.Tensor]) -> onnx.TensorProto:
    """1 / sqrt(size of a head), in the type of the keys."""
    from onnx.helper import make_tensor

    key = known[node.input[1]]
    size = key.shape.dim[-1].dim_value
    return make_tensor(f"{node.name}.scale", key.elem_type, [], [1 / math.sqrt(size)])
