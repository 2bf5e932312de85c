"""What a graph's values take while it runs."""

from __future__ import annotations

import math

import onnx_ir as ir

FLOAT_BYTES = 4


def live_bytes(graph: ir.Graph, sizes: dict[str, int]) -> int:
    """The most that a float32 graph's values hold at once, its weights aside.

    The nodes run in their order. A value lives from the node that gives it to the last one that takes it, and no node
    writes over what it takes.

    Args:
        graph: with the shapes of its values, and weights as inputs without a free dimension or as initializers.
        sizes: of its free dimensions.
    """
    outputs = set(graph.outputs)
    left = {value: len(value.uses()) for node in graph for value in node.outputs}
    left |= {value: len(value.uses()) for value in graph.inputs if not _is_fixed(value)}
    held = sum(_bytes(value, sizes) for value in left if value.producer() is None)
    most = held
    for node in graph:
        held += sum(_bytes(value, sizes) for value in node.outputs)
        most = max(most, held)
        for value in node.inputs:
            if value is None or value not in left:
                continue
            left[value] -= 1
            if left[value] == 0 and value not in outputs:
                held -= _bytes(value, sizes)
    return most


def _is_fixed(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static()


def _bytes(value: ir.Value, sizes: dict[str, int]) -> int:
    """Integers are shapes, and do not count."""
    if value.dtype != ir.DataType.FLOAT:
        return 0
    assert value.shape is not None, f"{value.name} has no shape"
    return FLOAT_BYTES * math.prod(value.shape.evaluate(sizes).numpy())
