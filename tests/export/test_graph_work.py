"""Work counted in graphs: small ones by hand, the model's against its arithmetic and the published figures."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from elit_edge.budget import Work, flops, velocity_work
from elit_edge.errors import ExportError
from elit_edge.export.graph_work import check_work, work_of
from elit_edge.export.onnx_graphs import role_graph, specialise, take_transposed_weights, trace
from elit_edge.model_config import ModelConfig

FLOAT, HALF, INT64 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT64
XL_256PX = ModelConfig(
    architecture="elit-sit",
    image_size=32,
    in_channels=4,
    patch_size=2,
    hidden_size=1152,
    num_heads=16,
    mlp_ratio=4.0,
    head_depth=8,
    core_depth=16,
    tail_depth=4,
    group_size=4,
    num_classes=1000,
)
MICRO = msgspec.structs.replace(
    XL_256PX,
    image_size=8,
    in_channels=3,
    hidden_size=32,
    num_heads=2,
    head_depth=1,
    core_depth=1,
    tail_depth=1,
    group_size=2,
    num_classes=5,
)
ONE_BLOCK_512PX = msgspec.structs.replace(
    XL_256PX, image_size=64, group_size=8, head_depth=1, core_depth=1, tail_depth=0, num_classes=1
)
"""Groups and width of XL at 512 px: more blocks would repeat the same products."""


def value(name, *shape, dtype=FLOAT):
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def node(operator, inputs, output, **attributes):
    return ir.node(operator, inputs, outputs=[output], attributes=attributes)


def model_of(inputs, nodes, initializers=()):
    """The last node gives the output."""
    graph = ir.Graph(inputs, nodes[-1].outputs, nodes=nodes, initializers=initializers, opset_imports={"": 23})
    return ir.Model(graph, ir_version=10)


def constant(name, array):
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))


def external(name, *shape, dtype=FLOAT):
    """Its file does not exist: nothing may read it."""
    length = int(np.prod(shape)) * dtype.bitwidth // 8
    tensor = ir.ExternalTensor("none.safetensors", 0, length, dtype, shape=ir.Shape(shape), name=name)
    return ir.Value(name=name, const_value=tensor, shape=ir.Shape(shape), type=ir.TensorType(dtype))


@pytest.mark.parametrize(
    ("left", "right", "out", "multiply_adds"),
    [
        ((5, 3), (3, 7), (5, 7), 5 * 3 * 7),
        ((2, 5, 3), (3, 7), (2, 5, 7), 2 * 5 * 3 * 7),
        ((2, 1, 5, 3), (4, 3, 7), (2, 4, 5, 7), 8 * 5 * 3 * 7),
        ((3,), (3, 7), (7,), 3 * 7),
    ],
    ids=["plain", "rows of a batch", "batches broadcast", "a vector"],
)
def test_a_matrix_product(left, right, out, multiply_adds):
    x, w = value("x", *left), value("w", *right)
    size = [int(np.prod(shape)) for shape in (left, right, out)]
    assert work_of(model_of([x, w], [node("MatMul", [x, w], value("out", *out))])) == Work(
        flops=2 * multiply_adds, weight_bytes=4 * size[1], activation_bytes=4 * (size[0] + size[2])
    )


@pytest.mark.parametrize(("shape", "transposed"), [((5, 3), 0), ((3, 5), 1)])
def test_a_gemm_and_its_bias_which_is_a_weight_and_no_product(shape, transposed):
    x, w, bias = value("x", *shape), value("w", 7, 3), value("bias", 7)
    product = node("Gemm", [x, w, bias], value("out", 5, 7), transA=transposed, transB=1)
    assert work_of(model_of([x, w, bias], [product])) == Work(
        flops=2 * 5 * 3 * 7, weight_bytes=4 * (21 + 7), activation_bytes=4 * (15 + 35)
    )


def test_a_convolution_in_groups():
    x, w = value("x", 1, 6, 8, 8), value("w", 4, 3, 2, 2)
    product = node("Conv", [x, w], value("out", 1, 4, 4, 4), strides=[2, 2], group=2)
    assert work_of(model_of([x, w], [product])) == Work(
        flops=2 * (4 * 4 * 4) * (3 * 2 * 2), weight_bytes=4 * 48, activation_bytes=4 * (384 + 64)
    )


@pytest.mark.parametrize(
    ("query", "key", "values", "out"),
    [
        ((2, 3, 5, 8), (2, 3, 11, 8), (2, 3, 11, 4), (2, 3, 5, 4)),
        ((2, 5, 24), (2, 11, 24), (2, 11, 12), (2, 5, 12)),
    ],
    ids=["heads apart", "heads packed"],
)
def test_both_products_of_an_attention(query, key, values, out):
    """Of two samples with three heads, five queries, eleven keys; eight numbers a key, four a value."""
    x, k, v = value("x", *query), value("t", *key), value("y", *values)
    attention = node("Attention", [x, k, v], value("out", *out), q_num_heads=3, kv_num_heads=3)
    assert work_of(model_of([x, k, v], [attention])) == Work(
        flops=2 * 2 * 3 * 5 * 11 * (8 + 4),
        weight_bytes=0,
        activation_bytes=4 * 2 * 3 * (5 * 8 + 11 * 8 + 11 * 4 + 5 * 4),
    )


def test_what_is_no_product_counts_nothing_and_types_have_their_width():
    x, w = value("x", 5, 3), external("w", 3, 7, dtype=HALF)
    half = value("half", 5, 3, dtype=HALF)
    out = value("out", 5, 7, dtype=HALF)
    nodes = [
        node("Cast", [x], half, to=HALF.value),
        node("MatMul", [half, w], out),
        node("Gelu", [out], value("gelu", 5, 7, dtype=HALF)),
    ]
    assert work_of(model_of([x], nodes, [w])) == Work(
        flops=2 * 5 * 3 * 7, weight_bytes=2 * 21, activation_bytes=2 * (15 + 35)
    )


def test_each_weight_counts_once_and_only_where_it_is_used_and_constants_of_the_graph_not_at_all():
    x, w, alone = value("x", 4, 4), external("w", 4, 4), external("alone", 100)
    scale = constant("scale", np.ones(4, np.float32))
    first, second = value("first", 4, 4), value("second", 4, 4)
    nodes = [
        node("MatMul", [x, w], first),
        node("MatMul", [first, w], second),
        node("Mul", [second, scale], value("out", 4, 4)),
    ]
    assert work_of(model_of([x], nodes, [w, alone, scale])) == Work(
        flops=2 * 2 * 64, weight_bytes=64, activation_bytes=4 * 64
    )


def test_a_weight_whose_numbers_are_not_read_yet_is_one():
    x, w = value("x", 5, 3), value("w", 3, 7)
    w.const_value = ir.LazyTensor(lambda: pytest.fail("read"), dtype=FLOAT, shape=ir.Shape([3, 7]), name="w")
    counted = work_of(model_of([x], [node("MatMul", [x, w], value("out", 5, 7))], [w]))
    assert counted.weight_bytes == 4 * 21


def test_a_value_that_is_both_inputs_moves_once():
    x = value("x", 4, 4)
    assert work_of(model_of([x], [node("MatMul", [x, x], value("out", 4, 4))])).activation_bytes == 2 * 64


def test_what_follows_from_weights_alone_is_no_work():
    """As Read's queries: their projection is computed once, whatever is sampled."""
    x, queries, w = value("x", 1, 6, 8), value("queries", 1, 4, 8), value("w", 8, 8)
    projected, wide = value("projected", 1, 4, 8), value("wide", 1, 4, 8)
    nodes = [
        node("MatMul", [queries, w], projected),
        node("Relu", [projected], wide),
        node("Attention", [wide, x, x], value("out", 1, 4, 8), q_num_heads=2, kv_num_heads=2),
    ]
    assert work_of(model_of([x, queries, w], nodes)) == Work(
        flops=2 * 4 * 6 * (8 + 8), weight_bytes=4 * (32 + 64), activation_bytes=4 * (48 + 32)
    )


def test_a_free_or_unknown_shape_is_refused():
    x, w = value("x", "batch", 3), value("w", 3, 7)
    free = model_of([x, w], [node("MatMul", [x, w], value("out", "batch", 7))])
    with pytest.raises(ExportError, match=r"shape of out is \[.*batch.*7\].*once all its shapes are fixed"):
        work_of(free)
    x, w = value("x", 5, 3), value("w", 3, 7)
    unknown = model_of([x, w], [node("MatMul", [x, w], ir.Value(name="out", type=ir.TensorType(FLOAT)))])
    with pytest.raises(ExportError, match="shape of out is None"):
        work_of(unknown)


def test_an_unknown_type_is_refused():
    x, w = value("x", 5, 3), value("w", 3, 7)
    with pytest.raises(ExportError, match="type of out is not known"):
        work_of(model_of([x, w], [node("MatMul", [x, w], ir.Value(name="out", shape=ir.Shape([5, 7])))]))


@pytest.mark.parametrize(("domain", "operator"), [("", "Einsum"), ("", "Loop"), ("com.microsoft", "FusedMatMul")])
def test_what_multiplies_in_a_way_that_is_not_counted_is_refused(domain, operator):
    x, w = value("x", 5, 3), value("w", 3, 7)
    strange = ir.node(operator, [x, w], outputs=[value("out", 5, 7)], domain=domain)
    with pytest.raises(ExportError, match=f"{operator}.*cannot be counted"):
        work_of(model_of([x, w], [strange]))


def test_an_attention_with_keys_of_earlier_calls_is_refused():
    x, past = value("x", 1, 2, 4, 8), value("y", 1, 2, 3, 8)
    attention = node("Attention", [x, x, x, None, past, past], value("out", 1, 2, 4, 8))
    with pytest.raises(ExportError, match="earlier calls"):
        work_of(model_of([x, past], [attention]))


def graphs_of(traced, config):
    roles = {role: role_graph(traced, role, config) for role in ("condition", "velocity")}
    for model in roles.values():
        take_transposed_weights(model)
    return roles


@pytest.mark.parametrize("write_latents", ["all", "kept"])
def test_every_budget_of_a_model_is_what_the_arithmetic_says(traced, write_latents):
    config = msgspec.structs.replace(MICRO, write_latents=write_latents)
    roles = graphs_of(traced(config), config)
    for latents in range(1, config.latents_per_group + 1):
        assert check_work(specialise(roles["velocity"], latents), config, latents) == velocity_work(config, latents)
    assert work_of(specialise(roles["condition"], 1)).flops == flops(config, 1).condition


def test_a_plain_sit_is_what_the_arithmetic_says(traced):
    config = msgspec.structs.replace(MICRO, architecture="sit", head_depth=2, core_depth=0, tail_depth=0, group_size=1)
    assert check_work(specialise(graphs_of(traced(config), config)["velocity"], 1), config, 1) == velocity_work(
        config, 1
    )


def test_groups_of_64_latents_are_what_the_arithmetic_says():
    velocity = graphs_of(trace(ONE_BLOCK_512PX), ONE_BLOCK_512PX)["velocity"]
    for latents in (1, 5, 64):
        check_work(specialise(velocity, latents), ONE_BLOCK_512PX, latents)


def test_a_graph_with_a_product_too_many_is_refused(traced):
    config = MICRO
    model = specialise(graphs_of(traced(config), config)["velocity"], 2)
    first = next(each for each in model.graph if each.op_type == "MatMul")
    again = node("MatMul", list(first.inputs), value("again", *first.outputs[0].shape))
    model.graph.insert_after(first, again)
    with pytest.raises(ExportError, match=r"velocity_latents_02 is .* and a step at 2 latents should be .* report it"):
        check_work(model, config, 2)


def test_the_graphs_of_the_largest_published_model_count_the_published_figures():
    """A batch of two, with conditions; the authors project Read's queries in each pass, for each group."""
    roles = graphs_of(trace(XL_256PX), XL_256PX)
    queries = 2 * XL_256PX.tokens * XL_256PX.hidden_size**2
    condition = work_of(specialise(roles["condition"], 1)).flops
    published = {16: 490.9, 12: 421.4, 8: 353.2, 4: 286.1, 2: 253.1}
    for latents, figure in published.items():
        step = check_work(specialise(roles["velocity"], latents), XL_256PX, latents).flops
        assert 2 * (step + condition + queries) / 1e9 == pytest.approx(figure, rel=5e-4), latents
