"""Live bytes, counted by hand."""

from __future__ import annotations

import onnx_ir as ir

from elit_edge.export.vae.memory import live_bytes


def graph_of(*rows):
    """A graph from rows of operator, inputs, output and the output's channels; z has 2 and each is height x width."""
    z = ir.val("z", ir.DataType.FLOAT, ["batch", 2, "height", "width"])
    weight = ir.val("weight", ir.DataType.FLOAT, [1000, 1000])
    values, nodes = {"z": z, "weight": weight}, []
    for op, inputs, name, channels in rows:
        node = ir.node(op, [values[each] for each in inputs], name=name)
        values[name] = node.outputs[0]
        values[name].name, values[name].dtype = name, ir.DataType.FLOAT
        values[name].shape = ir.Shape(["batch", channels, "2*height", "width"])
        nodes.append(node)
    return ir.Graph([z, weight], [values[rows[-1][2]]], nodes=nodes, opset_imports={"": 23})


SIZES = {"batch": 1, "height": 3, "width": 5}
PLANE = 4 * 2 * 3 * 5
"""Bytes of a channel after z, whose own have half of them."""


def test_a_value_lives_until_it_is_used_last():
    graph = graph_of(("Relu", ["z"], "a", 4), ("Relu", ["a"], "b", 4), ("Relu", ["b"], "c", 4))
    assert live_bytes(graph, SIZES) == (4 + 4) * PLANE


def test_what_a_later_node_takes_is_held_meanwhile():
    graph = graph_of(
        ("Relu", ["z"], "a", 4), ("Relu", ["a"], "b", 7), ("Relu", ["b"], "c", 5), ("Add", ["a", "c"], "d", 1)
    )
    assert live_bytes(graph, SIZES) == (4 + 7 + 5) * PLANE


def test_the_input_counts_until_it_is_used_and_weights_do_not():
    graph = graph_of(("Relu", ["z"], "a", 1), ("Add", ["z", "weight"], "b", 1), ("Add", ["a", "b"], "c", 1))
    assert live_bytes(graph, SIZES) == (1 + 1 + 1) * PLANE
    assert live_bytes(graph, SIZES | {"batch": 3}) == 3 * 3 * PLANE


def test_a_value_taken_twice_by_a_node_is_counted_once():
    graph = graph_of(("Relu", ["z"], "a", 4), ("Mul", ["a", "a"], "b", 4), ("Relu", ["b"], "c", 4))
    assert live_bytes(graph, SIZES) == (4 + 4) * PLANE
