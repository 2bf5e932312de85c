"""The 16-bit graphs: float32 where it must be, near the model, and no number that does not fit."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto
from safetensors import safe_open

from elit_edge.calibration.sites import ROLES
from elit_edge.errors import ExportError
from elit_edge.export.half import narrow, stored_halves
from elit_edge.export.weights_file import write_tensors
from elit_edge.parity import GATE_DB, psnr_db
from elit_edge.runtimes.contract import Missing
from elit_edge.runtimes.onnxruntime_.session import inference_session
from elit_edge.runtimes.registry import all_runtimes, state_of

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
both = pytest.mark.parametrize("precision", list(TYPES))


def paths_of(files, precision):
    return {role: files.graph_path(files.manifest.graph(role, precision)) for role in ROLES}


@pytest.fixture(scope="module")
def typed(grown):
    """The graphs with the type of every value, as onnx infers it from the graph's inputs and weights alone."""
    found = {}
    for precision in TYPES:
        for role, path in paths_of(grown[precision], precision).items():
            model = onnx.load(path)
            del model.graph.value_info[:]
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
            values = [*inferred.input, *inferred.output, *inferred.value_info]
            types = {value.name: value.type.tensor_type.elem_type for value in values}
            types |= {value.name: value.data_type for value in inferred.initializer}
            found[precision, role] = inferred, types
    return found


@both
def test_graphs_are_sound_and_of_standard_operators_alone(precision, grown):
    for path in paths_of(grown[precision], precision).values():
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert {each.domain for each in model.opset_import} == {""}


@both
def test_inputs_and_outputs_are_as_they_were(precision, grown, tiny_files):
    for role, path in paths_of(grown[precision], precision).items():
        graphs = [
            onnx.load(each, load_external_data=False).graph
            for each in (path, tiny_files.graph_path(tiny_files.manifest.graph(role, "fp32")))
        ]
        ours, wanted = ([*graph.input, *graph.output] for graph in graphs)
        assert [(value.name, value.type) for value in ours] == [(value.name, value.type) for value in wanted]


@both
def test_what_is_stated_of_values_is_what_follows(precision, grown, typed):
    """The types written in the file agree with those that onnx infers without them."""
    for role, path in paths_of(grown[precision], precision).items():
        _, types = typed[precision, role]
        for value in onnx.load(path, load_external_data=False).graph.value_info:
            assert types[value.name] == value.type.tensor_type.elem_type, value.name


@both
def test_products_and_attention_are_in_sixteen_bits(precision, typed):
    seen = Counter()
    for role in ROLES:
        graph, types = typed[precision, role]
        for node in graph.node:
            if node.op_type in ("MatMul", "Gemm", "Attention", "Gelu", "LayerNormalization"):
                assert {types[name] for name in [*node.input, *node.output] if name} == {TYPES[precision]}, node.name
                seen[node.op_type] += 1
    assert seen == {"MatMul": 36, "Gemm": 10, "Attention": 8, "Gelu": 8, "LayerNormalization": 15}


@both
def test_sums_of_squares_and_angles_are_in_float32(precision, typed):
    graph, types = typed[precision, "velocity"]
    users = {name: [node for node in graph.node if name in node.input] for node in graph.node for name in node.output}
    norms = [node for node in graph.node if node.op_type == "ReduceL2"]
    assert len(norms) == 4
    for norm in norms:
        assert types[norm.input[0]] == TensorProto.FLOAT
        node = norm
        while node.op_type != "Div":
            assert types[node.output[0]] == TensorProto.FLOAT, node.name
            (node,) = users[node.output[0]]
        assert [types[name] for name in [*node.input, *node.output]] == [TensorProto.FLOAT] * 3
    graph, types = typed[precision, "condition"]
    waves = [node for node in graph.node if node.op_type in ("Cos", "Sin")]
    assert len(waves) == 2
    (angles,) = {node.input[0] for node in waves}
    (product,) = (node for node in graph.node if angles in node.output)
    assert product.op_type == "Mul"
    assert {types[name] for node in (*waves, product) for name in [*node.input, *node.output]} == {TensorProto.FLOAT}


@both
def test_the_file_is_half_as_large(precision, grown, tiny_files):
    own = grown[precision].path(grown[precision].manifest.graph("velocity", precision).weights)
    full = tiny_files.path(tiny_files.manifest.graph("velocity", "fp32").weights)
    assert own.stat().st_size < 0.52 * full.stat().st_size
    with safe_open(own, "np") as file:
        types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
    wide = {name for name, dtype in types.items() if dtype == "F32"}
    assert wide == {"time.frequencies"}
    assert set(types.values()) - {"F32"} == {"F16" if precision == "fp16" else "BF16"}


@pytest.mark.parametrize(
    ("runtime", "precision"), [("onnxruntime", "fp16"), ("openvino", "fp16"), ("openvino", "bf16")]
)
def test_the_velocity_holds_the_gate_at_every_budget(runtime, precision, grown, tiny_files, tiny_states):
    if isinstance(state := state_of(all_runtimes()[runtime]), Missing):
        pytest.skip(state.reason)
    with (
        all_runtimes()["onnxruntime"].prepare(tiny_files, "fp32", 1) as exact,
        all_runtimes()[runtime].prepare(grown[precision], precision, 1) as session,
    ):
        for latents in range(1, 17):
            for rows in ([7], [1, 30, 71]):
                x, t, y = tiny_states.x[rows], tiny_states.t[rows], tiny_states.y[rows]
                found = session.velocity(x, t, y, latents)
                for value, right in zip(found, exact.velocity(x, t, y, latents), strict=True):
                    assert GATE_DB[precision] < psnr_db(value, right) < 110, latents


def changed(tiny_files, folder, name, change):
    """The float32 graphs over a copy of the weights, with one tensor changed."""
    shutil.copytree(tiny_files.folder, folder)
    models = {role: ir.load(folder / tiny_files.manifest.graph(role, "fp32").path) for role in ROLES}
    (tensor,) = (
        model.graph.initializers[name].const_value for model in models.values() if name in model.graph.initializers
    )
    values = np.array(tensor.numpy())
    change(values)
    with (folder / tiny_files.manifest.graph("velocity", "fp32").weights).open("r+b") as file:
        file.seek(tensor.offset)
        file.write(values.tobytes())
    return {role: ir.load(folder / tiny_files.manifest.graph(role, "fp32").path) for role in ROLES}


@pytest.mark.parametrize("value", [65520.0, -1e6, np.inf, np.nan])
def test_a_weight_that_fp16_cannot_hold_is_named(value, tiny_files, tmp_path):
    models = changed(tiny_files, tmp_path / "big.elit", "final.weight_t", lambda values: values.put(3, value))
    with pytest.raises(ExportError, match=r"final\.weight_t"):
        write_tensors(tmp_path / "out.safetensors", stored_halves(models.values(), "fp16"), lambda _: None)


@pytest.mark.parametrize(("value", "precision"), [(65504.0, "fp16"), (-1e30, "bf16")])
def test_a_weight_that_just_fits_is_taken(value, precision, tiny_files, tmp_path):
    models = changed(tiny_files, tmp_path / "big.elit", "final.weight_t", lambda values: values.put(3, value))
    tensors = write_tensors(tmp_path / "out.safetensors", stored_halves(models.values(), precision), lambda _: None)
    assert tensors["final.weight_t"].numpy().ravel()[3].astype(np.float32) == pytest.approx(value, rel=1e-2)


def test_norms_of_large_vectors_do_not_overflow(tiny_files, tiny_states, tmp_path):
    """Keys of Write whose sum of squares is far beyond 65504."""

    def enlarge(values):
        values[:48] += np.float32(80)

    folder = tmp_path / "large.elit"
    models = changed(tiny_files, folder, "write.attn.kv_proj.bias", enlarge)
    tensors = write_tensors(
        folder / "onnx" / "half.safetensors", stored_halves(models.values(), "fp16"), lambda _: None
    )
    for role, model in models.items():
        narrow(model, "fp16", tensors)
        ir.save(model, folder / "onnx" / f"{role}-half.onnx")
    rows = [7, 30]
    found = {}
    for kind in ("", "-half"):
        condition, velocity = (inference_session(folder / "onnx" / f"{role}{kind}.onnx", 1) for role in ROLES)
        modulations = condition.run(None, {"t": tiny_states.t[rows], "y": tiny_states.y[rows]})[0]
        feeds = {"x": tiny_states.x[rows], "modulations": modulations, "latents": np.zeros(5, np.int64)}
        found[kind] = velocity.run(None, feeds)[0]
    for value, right in zip(found["-half"], found[""], strict=True):
        assert psnr_db(value, right) > GATE_DB["fp16"]
