"""Sites: every linear layer once, by torch's name; a product that no scheme takes is named."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from torch import nn

from elit_edge.calibration.sites import find_sites, weight_of
from elit_edge.errors import CalibrationError


def test_the_sites_are_the_linear_layers_of_the_torch_model(tiny_sites, tiny_model):
    layers = {name: layer for name, layer in tiny_model.named_modules() if isinstance(layer, nn.Linear)}
    assert len({site.name for site in tiny_sites}) == len(tiny_sites)
    assert {site.name: (site.inputs, site.outputs) for site in tiny_sites} == {
        name: (layer.in_features, layer.out_features) for name, layer in layers.items()
    }


def test_weights_are_those_of_torch_with_inputs_first(tiny_sites, tiny_model, weight):
    for site in tiny_sites:
        own = tiny_model.get_submodule(site.name).weight.detach().numpy()
        np.testing.assert_array_equal(weight(site), own.T)
        assert weight(site).flags.c_contiguous


def test_conditions_and_the_velocity_share_no_layer(tiny_sites):
    conditions = {site.name for site in tiny_sites if site.role == "condition"}
    assert {name.rpartition(".")[0] for name in conditions if "modulation" not in name} == {"time"}
    assert {name for name in conditions if name.endswith("modulation")} == {
        *(f"blocks.{index}.modulation" for index in range(6)),
        "read.modulation",
        "final_modulation",
    }


def test_every_site_is_a_product_of_its_graph(tiny_sites, load_graphs):
    nodes = {(role, node.name): node for role, model in load_graphs().items() for node in model.graph}
    assert len({(site.role, site.node) for site in tiny_sites}) == len(tiny_sites)
    for site in tiny_sites:
        node = nodes[site.role, site.node]
        assert [value.name for value in node.inputs[:2]] == [site.source, site.weight]
        assert node.inputs[1].shape[site.input_axis] == site.inputs
        assert node.inputs[1].shape[1 - site.input_axis] == site.outputs


def test_a_product_of_two_activations_is_no_site():
    graph = foreign(np.zeros((4, 4), np.float32), "layer.weight_t")
    left = graph.graph.inputs[0]
    graph.graph.append(ir.Node("", "MatMul", [left, left], name="scores"))
    assert [site.node for site in find_sites(graph, "velocity")] == ["product"]


def foreign(values, name, operator="MatMul", **attributes):
    """A graph of one product that elit-edge did not write."""
    x = ir.Value(name="x", shape=ir.Shape(["B", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    weight = ir.Value(name=name, const_value=ir.tensor(values, name=name))
    attributes = [ir.AttrInt64(key, value) for key, value in attributes.items()]
    node = ir.Node("", operator, [x, weight], attributes, name="product")
    return ir.Model(ir.Graph([x], node.outputs, nodes=[node], initializers=[weight]), ir_version=10)


@pytest.mark.parametrize(
    ("values", "name", "operator", "attributes"),
    [
        (np.zeros((4, 4), np.float16), "layer.weight_t", "MatMul", {}),
        (np.zeros((2, 4, 4), np.float32), "layer.weight_t", "MatMul", {}),
        (np.zeros((4, 4), np.float32), "onnx::MatMul_17", "MatMul", {}),
        (np.zeros((4, 4), np.float32), "layer.weight", "MatMul", {}),
        (np.zeros((4, 4), np.float32), "layer.weight_t", "Gemm", {"transB": 1}),
        (np.zeros((4, 4), np.float32), "layer.weight", "Gemm", {}),
    ],
    ids=["fp16", "3-d", "foreign-name", "not-transposed", "transposed-twice", "gemm-not-transposed"],
)
def test_a_product_that_no_scheme_takes_is_named_with_a_remedy(values, name, operator, attributes):
    with pytest.raises(CalibrationError, match=f"node product multiplies by {name}.*elit-edge export"):
        find_sites(foreign(values, name, operator, **attributes), "velocity")


@pytest.mark.parametrize(("operator", "name"), [("MatMul", "a.weight_t"), ("Gemm", "a.weight")])
def test_both_ways_to_store_a_weight_give_the_same_matrix(operator, name):
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = foreign(matrix if operator == "MatMul" else matrix.T, name, operator, **(
        {} if operator == "MatMul" else {"transB": 1}
    ))  # fmt: skip
    (site,) = find_sites(graph, "velocity")
    assert (site.name, site.inputs, site.outputs) == ("a", 4, 3)
    np.testing.assert_array_equal(weight_of({"velocity": graph}, site), matrix)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(value):
    """The schemes without a calibration set see the weights alone: NaN would become a whole number."""
    graph = foreign(np.full((4, 4), value, np.float32), "layer.weight_t")
    (site,) = find_sites(graph, "velocity")
    with pytest.raises(CalibrationError, match="layer"):
        weight_of({"velocity": graph}, site)
