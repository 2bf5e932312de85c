from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

from elit_edge.bundle import Bundle
from elit_edge.export.model_graphs import WEIGHTS_FILE


@pytest.fixture(scope="module")
def graphs(tiny_bundle_path):
    """Every graph of the tiny bundle, as the onnx library reads it, without its weights."""
    folder = tiny_bundle_path / "onnx"
    return {path.stem: onnx.load(path, load_external_data=False) for path in folder.glob("*.onnx")}


def external(tensor):
    return {entry.key: entry.value for entry in tensor.external_data}


def test_every_graph_is_valid_onnx(tiny_bundle_path, graphs):
    for name in graphs:
        onnx.checker.check_model(str(tiny_bundle_path / "onnx" / f"{name}.onnx"), full_check=True)


def test_there_is_a_graph_for_each_role_and_each_budget(graphs):
    fixed = {f"velocity_latents_{latents:02d}" for latents in range(1, 17)}
    assert set(graphs) == {"condition", "velocity", "model"} | fixed


def test_all_graphs_point_at_the_same_bytes_of_one_file(tiny_bundle_path, graphs):
    places = collections.defaultdict(set)
    for model in graphs.values():
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entry = external(tensor)
                assert entry["location"] == WEIGHTS_FILE
                places[tensor.name].add((entry["offset"], entry["length"]))
    assert places
    assert all(len(where) == 1 for where in places.values())


def test_what_stands_inside_a_graph_is_small(graphs):
    for model in graphs.values():
        inside = [tensor for tensor in model.graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
        assert sum(tensor.ByteSize() for tensor in inside) < 10_000


def test_the_weights_file_is_safetensors_and_starts_its_data_on_a_page(tiny_bundle_path, tiny_checkpoint):
    path = tiny_bundle_path / "onnx" / WEIGHTS_FILE
    stored = load_file(path)
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 4096 == 0
    qkv = tiny_checkpoint.weights["blocks.0.attn.qkv.weight"].numpy()
    np.testing.assert_array_equal(stored["blocks.0.attn.qkv.weight_t"], qkv.T)
    np.testing.assert_array_equal(stored["label.weight"], tiny_checkpoint.weights["label.weight"].numpy())


def test_each_weight_is_stored_once(tiny_bundle_path, tiny_checkpoint):
    stored = load_file(tiny_bundle_path / "onnx" / WEIGHTS_FILE)
    numbers = sum(tensor.numel() for tensor in tiny_checkpoint.weights.values())
    constants = tiny_checkpoint.config.modulation_size + 128
    assert sum(array.size for array in stored.values()) == numbers + constants


def test_dynamic_graphs_leave_batch_and_latents_free(graphs):
    for role in ("velocity", "model"):
        shapes = {
            v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graphs[role].graph.input
        }
        assert shapes["x"] == ["batch", 4, 16, 16]
        assert shapes["latents"] == ["latents"]


def test_fixed_graphs_have_no_free_dimension_and_compute_no_shapes(graphs):
    for latents in range(1, 17):
        graph = graphs[f"velocity_latents_{latents:02d}"].graph
        assert [value.name for value in graph.input] == ["x", "modulations"]
        for value in [*graph.input, *graph.output]:
            assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim)
        assert "Shape" not in {node.op_type for node in graph.node}


def test_graphs_hold_the_whole_operators_of_the_opset(graphs, tiny_checkpoint):
    depth = tiny_checkpoint.config.depth
    operators = collections.Counter(node.op_type for node in graphs["velocity"].graph.node)
    assert operators["Attention"] == depth + 2
    assert operators["Gelu"] == depth + 2
    assert operators["LayerNormalization"] == 2 * depth + 3
    forms = {a.s for n in graphs["velocity"].graph.node if n.op_type == "Gelu" for a in n.attribute}
    assert forms == {b"tanh"}


def test_the_velocity_reads_no_weight_of_the_condition(graphs):
    weights = {
        role: {t.name for t in graphs[role].graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
        for role in ("condition", "velocity", "model")
    }
    assert not weights["condition"] & weights["velocity"]
    assert weights["condition"] | weights["velocity"] == weights["model"]
    assert all("modulation" not in name for name in weights["velocity"])


def test_the_manifest_says_what_the_graphs_take_and_give(tiny_bundle_path, graphs):
    for graph in Bundle.open(tiny_bundle_path).manifest.graphs:
        model = graphs[graph.path.removeprefix("onnx/").removesuffix(".onnx")]
        for specs, values in ((graph.inputs, model.graph.input), (graph.outputs, model.graph.output)):
            found = [(v.name, tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values]
            assert [(spec.name, spec.shape) for spec in specs] == found
