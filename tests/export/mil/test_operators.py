"""Operators against the values that coremltools itself infers, which it computes with numpy."""

from __future__ import annotations

import numpy as np
import pytest
from export.mil.tools import computed
from hypothesis import assume, given, settings
from hypothesis import strategies as st

few = settings(max_examples=40, deadline=None, derandomize=True)


def numbers(*shape, seed=0, low=-3.0, high=3.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


X = numbers(2, 3, 4)
POSITIVE = numbers(2, 3, 4, low=0.1)
WHOLE = np.random.default_rng(1).integers(-7, 8, (2, 3, 4)).astype(np.int32)

CASES = {
    "add": ("add", {"x": X, "y": numbers(3, 1, seed=1)}),
    "add of integers": ("add", {"x": WHOLE, "y": np.int32(3)}),
    "sub": ("sub", {"x": X, "y": numbers(4, seed=1)}),
    "mul": ("mul", {"x": X, "y": np.float32(-1.5)}),
    "real_div": ("real_div", {"x": X, "y": numbers(2, 1, 4, seed=1, low=0.5)}),
    "floor_div": ("floor_div", {"x": X, "y": numbers(4, seed=1, low=0.5)}),
    "floor_div of integers": ("floor_div", {"x": WHOLE, "y": np.int32(3)}),
    "pow": ("pow", {"x": POSITIVE, "y": numbers(4, seed=1)}),
    "maximum": ("maximum", {"x": X, "y": numbers(4, seed=1)}),
    "minimum": ("minimum", {"x": X, "y": numbers(4, seed=1)}),
    "greater_equal": ("greater_equal", {"x": WHOLE, "y": np.int32(0)}),
    "less": ("less", {"x": WHOLE, "y": np.int32(0)}),
    "select": ("select", {"cond": WHOLE >= 0, "a": X, "b": -X}),
    "clip": ("clip", {"x": X, "alpha": np.float32(-1), "beta": np.float32(0.5)}),
    "sqrt": ("sqrt", {"x": POSITIVE}),
    "rsqrt": ("rsqrt", {"x": POSITIVE, "epsilon": np.float32(0.5)}),
    "rsqrt with its own epsilon": ("rsqrt", {"x": POSITIVE}),
    "square": ("square", {"x": X}),
    "exp": ("exp", {"x": X}),
    "cos": ("cos", {"x": X}),
    "sin": ("sin", {"x": X}),
    "tanh": ("tanh", {"x": X}),
    "sigmoid": ("sigmoid", {"x": X}),
    "relu": ("relu", {"x": X}),
    "identity": ("identity", {"x": X}),
    "cast to integers": ("cast", {"x": X, "dtype": "int32"}),
    "cast to floats": ("cast", {"x": WHOLE, "dtype": "fp32"}),
    "cast to bool": ("cast", {"x": WHOLE, "dtype": "bool"}),
    "gelu": ("gelu", {"x": X}),
    "gelu by tanh": ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}),
    "gelu by sigmoid": ("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}),
    "softmax": ("softmax", {"x": X, "axis": 1}),
    "softmax of the last": ("softmax", {"x": X}),
    "layer_norm": ("layer_norm", {"x": X, "axes": [-1]}),
    "layer_norm learned": (
        "layer_norm",
        {"x": X, "axes": [2], "gamma": numbers(4), "beta": numbers(4, seed=1), "epsilon": np.float32(0.1)},
    ),
    "layer_norm of channels": ("layer_norm", {"x": X, "axes": [1], "gamma": numbers(3), "beta": numbers(3, seed=1)}),
    "layer_norm of two axes": ("layer_norm", {"x": X, "axes": [2, 1], "gamma": numbers(3, 4), "beta": numbers(3, 4)}),
    "layer_norm of all axes": ("layer_norm", {"x": X, "axes": [0, 1, 2]}),
    "reduce_sum": ("reduce_sum", {"x": X, "axes": [0, 2]}),
    "reduce_sum of integers": ("reduce_sum", {"x": WHOLE, "axes": [1], "keep_dims": True}),
    "reduce_sum of all": ("reduce_sum", {"x": X}),
    "reduce_mean": ("reduce_mean", {"x": X, "axes": [-1], "keep_dims": True}),
    "reduce_max": ("reduce_max", {"x": X, "axes": [1]}),
    "reduce_max of all": ("reduce_max", {"x": X}),
    "reduce_sum_square": ("reduce_sum_square", {"x": X, "axes": [0]}),
    "reduce_l2_norm": ("reduce_l2_norm", {"x": X, "axes": [2], "keep_dims": True}),
    "reduce_l2_norm of all": ("reduce_l2_norm", {"x": X}),
    "linear": ("linear", {"x": X, "weight": numbers(5, 4, seed=1), "bias": numbers(5, seed=2)}),
    "linear without bias": ("linear", {"x": X, "weight": numbers(5, 4, seed=1)}),
    "matmul": ("matmul", {"x": X, "y": numbers(4, 5, seed=1)}),
    "matmul transposed": (
        "matmul",
        {"x": X, "y": numbers(2, 5, 3, seed=1), "transpose_x": True, "transpose_y": True},
    ),
    "einsum of channels": (
        "einsum",
        {"values": [numbers(2, 3, 4, 5), numbers(2, 5, 4, 3, seed=1)], "equation": "nchw,nwhu->nchu"},
    ),
    "einsum of three axes": ("einsum", {"values": [X, numbers(4, 3, 5, seed=1)], "equation": "chw,whr->chr"}),
    "reshape": ("reshape", {"x": X, "shape": [0, -1, 2]}),
    "reshape to fewer axes": ("reshape", {"x": X, "shape": [-1]}),
    "transpose": ("transpose", {"x": X, "perm": [2, 0, 1]}),
    "expand_dims": ("expand_dims", {"x": X, "axes": [-1, 1]}),
    "squeeze": ("squeeze", {"x": X[:1, :, :1], "axes": [0]}),
    "squeeze of all": ("squeeze", {"x": X[:1, :, :1]}),
    "concat": ("concat", {"values": [X, X[:, :1]], "axis": 1}),
    "concat of numbers": ("concat", {"values": [np.int32(2), np.int32(5)], "axis": 0}),
    "stack": ("stack", {"values": [X, -X], "axis": -1}),
    "split": ("split", {"x": X, "num_splits": 2, "axis": -1}),
    "split of sizes": ("split", {"x": X, "split_sizes": [1, 2], "axis": 1}),
    "tile": ("tile", {"x": X, "reps": [2, 1, 3]}),
    "shape": ("shape", {"x": X}),
    "slice_by_size": ("slice_by_size", {"x": X, "begin": [0, 1, 2], "size": [2, -1, 1]}),
    "gather": ("gather", {"x": X, "indices": np.array([[2, 0], [-1, 1]], np.int32), "axis": 1}),
    "gather of one": ("gather", {"x": X, "indices": np.int32(1)}),
}
IN_OPSETS = {
    "gather of a batch": (
        "iOS16",
        "gather",
        {"x": X, "indices": np.array([[3, 0], [1, 1]], np.int32), "axis": 2, "batch_dims": 1},
    ),
    "gather of iOS 17": (
        "iOS17",
        "gather",
        {"x": X, "indices": np.array([2, 0], np.int32), "axis": -2, "validate_indices": True},
    ),
    "cast of iOS 17": ("iOS17", "cast", {"x": WHOLE, "dtype": "int8"}),
    "quantize": ("iOS17", "quantize", {"input": X, "scale": np.float32(0.02), "output_dtype": "int8"}),
    "quantize with a zero": (
        "iOS17",
        "quantize",
        {"input": X, "scale": np.float32(0.5), "zero_point": np.uint8(3), "output_dtype": "uint8"},
    ),
    "quantize by channel": (
        "iOS17",
        "quantize",
        {
            "input": X,
            "scale": np.array([0.1, 0.5, 1.0], np.float32),
            "zero_point": np.array([0, -5, 100], np.int8),
            "axis": 1,
            "output_dtype": "int8",
        },
    ),
    "quantize of halves": (
        "iOS17",
        "quantize",
        {"input": np.arange(-4, 5, dtype=np.float32) / 2, "scale": np.float32(1), "output_dtype": "int8"},
    ),
    "attention": (
        "iOS18",
        "scaled_dot_product_attention",
        {"query": numbers(2, 3, 4, 8), "key": numbers(2, 3, 5, 8, seed=1), "value": numbers(2, 3, 5, 6, seed=2)},
    ),
    "attention of three axes": (
        "iOS18",
        "scaled_dot_product_attention",
        {"query": numbers(2, 4, 8), "key": numbers(2, 5, 8, seed=1), "value": numbers(2, 5, 6, seed=2)},
    ),
    "attention with a mask": (
        "iOS18",
        "scaled_dot_product_attention",
        {
            "query": numbers(2, 3, 4, 8),
            "key": numbers(2, 3, 5, 8, seed=1),
            "value": numbers(2, 3, 5, 6, seed=2),
            "attn_mask": numbers(4, 5, seed=3),
        },
    ),
    "attention to some": (
        "iOS18",
        "scaled_dot_product_attention",
        {
            "query": numbers(2, 3, 4, 8),
            "key": numbers(2, 3, 5, 8, seed=1),
            "value": numbers(2, 3, 5, 6, seed=2),
            "attn_mask": np.array([[True, False, True, True, False]] * 4),
        },
    ),
}


def same(found, wanted):
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
        return
    assert found.shape == wanted.shape
    assert found.dtype.kind == wanted.dtype.kind
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)
    else:
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("case", CASES)
def test_an_operator_gives_what_coremltools_infers(infer, case):
    op_type, arguments = CASES[case]
    same(computed(op_type, **arguments), infer(op_type, **arguments))


@pytest.mark.parametrize("case", IN_OPSETS)
def test_an_operator_of_a_later_opset_gives_what_coremltools_infers(infer, case):
    opset, op_type, arguments = IN_OPSETS[case]
    same(computed(op_type, **arguments), infer(op_type, opset, **arguments))


@st.composite
def slices(draw):
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    ends = [st.integers(-n, n) for n in shape]
    masks = st.lists(st.booleans(), min_size=len(shape), max_size=len(shape))
    return {
        "x": numbers(*shape),
        "begin": [draw(st.integers(-n, n - 1)) for n in shape],
        "end": [draw(end) for end in ends],
        "stride": [draw(st.sampled_from([-2, -1, 1, 2, 3])) for _ in shape],
        "begin_mask": draw(masks),
        "end_mask": draw(masks),
        "squeeze_mask": draw(masks),
    }


@few
@given(arguments=slices())
def test_slices_are_numpys(infer, arguments):
    found = computed("slice_by_index", **arguments)
    assume(found.size)
    same(found, infer("slice_by_index", **arguments))


@few
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_sums_broadcast_as_numpy_does(infer, shape, data):
    thinned = [data.draw(st.sampled_from([1, length])) for length in shape]
    rank = data.draw(st.integers(0, len(shape)))
    arguments = {"x": numbers(*shape), "y": numbers(*thinned[len(shape) - rank :], seed=1)}
    same(computed("add", **arguments), infer("add", **arguments))


@few
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    op_type=st.sampled_from(["reduce_sum", "reduce_mean", "reduce_max", "reduce_sum_square", "reduce_l2_norm"]),
    data=st.data(),
)
def test_reductions_take_any_axes(infer, shape, op_type, data):
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    arguments = {"x": numbers(*shape), "axes": axes, "keep_dims": data.draw(st.booleans())}
    same(computed(op_type, **arguments), infer(op_type, **arguments))


def test_an_index_outside_is_refused_where_core_ml_leaves_it_undefined():
    arguments = {"x": X, "indices": np.array([-1], np.int32)}
    assert computed("gather", **arguments).shape == (1, 3, 4)
    for checked in (True, False):
        with pytest.raises((IndexError, RuntimeError), match="out of"):
            computed("gather", **arguments, validate_indices=checked)


@pytest.mark.parametrize("arguments", [{"x": X, "mode": "FAST"}])
def test_a_mode_that_gelu_has_not_is_refused(arguments):
    with pytest.raises(ValueError, match="FAST"):
        computed("gelu", **arguments)
