"""Compressed weights: against coremltools' own decompression, against the reference's examples, and end to end."""

from __future__ import annotations

import numpy as np
import pytest
from export.mil.tools import computed, relative_rms

from elit_edge.export.mil.evaluator import MilFunction
from elit_edge.export.mil.reading import MilPackage

ROWS, COLUMNS = 48, 64


@pytest.fixture(scope="module")
def weights():
    generator = np.random.default_rng(0)
    return generator.normal(size=(ROWS, COLUMNS)).astype(np.float32), generator.normal(size=ROWS).astype(np.float32)


@pytest.fixture(scope="module")
def dense(save, mil, weights, tmp_path_factory):
    """By opset: a package of one linear operator, in float16."""
    folder = tmp_path_factory.mktemp("dense")

    def body(x):
        return mil.mb.linear(x=x, weight=weights[0], bias=weights[1], name="y")

    return {
        opset: save(folder / f"{opset}.mlpackage", body, {"x": ((4, COLUMNS), "fp32")}, opset, "fp16")
        for opset in ("iOS16", "iOS18")
    }


def quantized(**settings):
    def compress(optimize, model):
        config = optimize.OpLinearQuantizerConfig(weight_threshold=0, **settings)
        return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=config))

    return compress


def palettized(**settings):
    def compress(optimize, model):
        config = optimize.OpPalettizerConfig(weight_threshold=0, **settings)
        return optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=config))

    return compress


COMPRESSIONS = {
    "int8 by channel": ("iOS18", quantized(dtype="int8", granularity="per_channel"), 0.01),
    "uint8 affine": ("iOS18", quantized(dtype="uint8", mode="linear"), 0.01),
    "int4 by block": ("iOS18", quantized(dtype="int4", granularity="per_block", block_size=32), 0.2),
    "uint4 affine": ("iOS18", quantized(dtype="uint4", mode="linear", granularity="per_channel"), 0.2),
    "int8 of iOS 16": ("iOS16", quantized(dtype="int8"), 0.01),
    "4-bit table": ("iOS18", palettized(mode="uniform", nbits=4), 0.2),
    "6-bit table": ("iOS18", palettized(mode="uniform", nbits=6), 0.05),
    "3-bit table": ("iOS18", palettized(mode="kmeans", nbits=3), 0.4),
    "4-bit tables of groups": (
        "iOS18",
        palettized(mode="kmeans", nbits=4, granularity="per_grouped_channel", group_size=16),
        0.2,
    ),
    "2-bit table of pairs": ("iOS18", palettized(mode="kmeans", nbits=2, cluster_dim=2), 0.9),
    "4-bit table of iOS 16": ("iOS16", palettized(mode="uniform", nbits=4), 0.2),
    "6-bit table of iOS 16": ("iOS16", palettized(mode="uniform", nbits=6), 0.05),
}


@pytest.mark.parametrize("case", COMPRESSIONS)
def test_a_compressed_package_computes_what_its_decompressed_one_does(ct, dense, weights, tmp_path, case):
    opset, compress, loss = COMPRESSIONS[case]
    model = ct.models.MLModel(str(dense[opset]), skip_model_load=True)
    small = compress(ct.optimize.coreml, model)
    small.save(str(tmp_path / "small.mlpackage"))
    ct.optimize.coreml.decompress_weights(small).save(str(tmp_path / "unpacked.mlpackage"))
    packages = [MilPackage.open(tmp_path / f"{name}.mlpackage") for name in ("small", "unpacked")]
    types = [{operation.type for operation in package.program("main").operations} for package in packages]
    assert any(name.startswith("constexpr_") for name in types[0])
    assert not any(name.startswith("constexpr_") for name in types[1])
    x = np.random.default_rng(1).normal(size=(4, COLUMNS)).astype(np.float32)
    found, unpacked = (MilFunction(package, "main", "stored")({"x": x})["y"] for package in packages)
    np.testing.assert_array_equal(found, unpacked)
    exact = MilFunction(packages[0], "main", "exact")({"x": x})["y"]
    assert relative_rms(exact, found) < 2e-3
    wanted = x.astype(np.float64) @ weights[0].T + weights[1]
    assert 1e-4 < relative_rms(exact, wanted) < loss


def test_quantized_activations(save, mil, weights, tmp_path):
    """W8A8: quantize and dequantize before an operator, as coremltools places them."""
    scale = np.float32(0.05)

    def body(x):
        levels = mil.mb.quantize(input=x, scale=scale, zero_point=np.int8(2), output_dtype="int8")
        back = mil.mb.dequantize(input=levels, scale=scale, zero_point=np.int8(2))
        return mil.mb.linear(x=back, weight=weights[0], bias=weights[1], name="y")

    path = save(tmp_path / "a.mlpackage", body, {"x": ((4, COLUMNS), "fp32")})
    x = np.random.default_rng(1).normal(size=(4, COLUMNS), scale=3).astype(np.float32)
    levels = np.clip(np.rint(x.astype(np.float64) / scale) + 2, -128, 127)
    wanted = (levels - 2) * scale @ weights[0].T + weights[1]
    function = MilFunction(MilPackage.open(path), "main")
    seen = []
    found = function(
        {"x": x}, observe=lambda _name, kind, _output, tensor: seen.append((kind, tensor.dtype.is_floating_point))
    )
    assert relative_rms(found["y"], wanted) < 1e-6
    assert seen == [("dequantize", True), ("linear", True)]


def test_a_table_for_each_group_as_the_reference_shows_it():
    indices = np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], np.uint8).reshape(6, 2)
    lut = np.array([1, 5, 9, 13, 2, 10, 18, 26], np.float32).reshape(2, 1, 4, 1)
    wanted = [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    np.testing.assert_array_equal(computed("constexpr_lut_to_dense", indices=indices, lut=lut), wanted)


VECTORS = {
    1: [[[1, 1], [2, 2], [3, 3], [10, 1], [20, 2], [30, 3]], [[10, 10], [20, 20], [30, 30], [1, 1], [2, 2], [3, 3]]],
    2: [[[1, 2, 3, 1, 2, 3], [10, 20, 30, 1, 2, 3]], [[10, 20, 30, 10, 20, 30], [1, 2, 3, 1, 2, 3]]],
}


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_entries_longer_than_one_lie_along_their_axis_as_the_reference_shows_it(axis):
    indices = np.array([0, 0, 1, 0, 1, 1, 0, 0], np.uint8).reshape(2, 2, 2)
    lut = np.array([1, 2, 3, 10, 20, 30], np.float32).reshape(1, 1, 1, 2, 3)
    found = computed("constexpr_lut_to_dense", indices=indices, lut=lut, vector_axis=axis)
    np.testing.assert_array_equal(found, VECTORS[axis % 3])


def test_bits_are_read_from_the_least_significant_on():
    """2 bits a number, five numbers in two bytes: the reference's own example."""
    packed = np.array([0b01_10_11_00, 0b11], np.uint8)
    lut = np.array([0, 10, 20, 30], np.float32)
    found = computed("constexpr_lut_to_dense", indices=packed, lut=lut, shape=np.array([5], np.uint32))
    np.testing.assert_array_equal(found, [0, 30, 20, 10, 30])


def test_affine_weights_by_axis():
    data = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    found = computed(
        "constexpr_affine_dequantize",
        quantized_data=data,
        zero_point=np.array([1, 2, 3], np.uint8),
        scale=np.array([1, 10, 100], np.float32),
        axis=1,
    )
    np.testing.assert_array_equal(found, [[0, 0, 0], [3, 30, 300]])


def test_blocks_have_their_own_scale_and_offset():
    data = np.arange(8, dtype=np.int8).reshape(2, 4)
    scale, offset = np.array([[1, 10]], np.float32), np.array([[0, 2]], np.int8)
    found = computed("constexpr_blockwise_shift_scale", data=data, scale=scale, offset=offset)
    np.testing.assert_array_equal(found, [[0, 1, 0, 10], [4, 5, 40, 50]])


def test_a_weight_stored_as_float16_is_used_as_float32():
    half = np.array([0.1, 65504], np.float16)
    np.testing.assert_array_equal(computed("constexpr_cast", source_val=half, output_dtype="fp32"), half.astype("f4"))
    with pytest.raises(ValueError, match="int8"):
        computed("constexpr_cast", source_val=half, output_dtype="int8")


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("columns", [4, 24])
def test_small_weights_stand_among_the_operators_and_large_ones_in_the_file(save, mil, tmp_path, kind, columns):
    low = -8 if kind.startswith("int") else 0
    data = (np.arange(2 * columns).reshape(2, columns) % 16 + low).astype("i1" if low else "u1")
    scale = np.array([[0.5], [2]], np.float32)

    def body(x):
        stored = data.astype(mil.types.nptype_from_builtin(getattr(mil.types, kind)))
        return mil.mb.linear(x=x, weight=mil.mb.constexpr_blockwise_shift_scale(data=stored, scale=scale), name="y")

    path = save(tmp_path / "a.mlpackage", body, {"x": ((3, columns), "fp32")})
    package = MilPackage.open(path)
    assert bool(package.blob_offsets("main")) == (columns > 4)
    x = np.random.default_rng(0).normal(size=(3, columns)).astype(np.float32)
    assert relative_rms(MilFunction(package, "main")({"x": x})["y"], x @ (data * scale).T) < 1e-6


def test_functions_share_what_was_decompressed(ct, mil, save, weights, tmp_path):
    descriptor = ct.utils.MultiFunctionDescriptor()
    for rows in (3, 4):
        path = tmp_path / f"{rows}.mlpackage"
        save(path, lambda x: mil.mb.linear(x=x, weight=weights[0], name="y"), {"x": ((rows, COLUMNS), "fp32")})
        model = ct.models.MLModel(str(path), skip_model_load=True)
        quantized(dtype="int8")(ct.optimize.coreml, model).save(str(path))
        descriptor.add_function(str(path), "main", f"rows_{rows}")
    descriptor.default_function_name = "rows_3"
    ct.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    package = MilPackage.open(tmp_path / "both.mlpackage")
    functions = [MilFunction(package, "rows_3")]
    held = sum(tensor.numel() for tensor in package.tensors.values())
    assert held >= weights[0].size
    functions.append(MilFunction(package, "rows_4"))
    assert sum(tensor.numel() for tensor in package.tensors.values()) == held
    x = np.random.default_rng(0).normal(size=(4, COLUMNS)).astype(np.float32)
    np.testing.assert_allclose(functions[0]({"x": x[:3]})["y"], functions[1]({"x": x})["y"][:3], rtol=1e-6, atol=1e-6)
