"""What stands in the packages: functions, types, one copy of the weights, metadata, operators."""

from __future__ import annotations

import hashlib
import math
import tempfile

import numpy as np
import pytest
from export.to_coreml.tools import METADATA, emission_of, write

from elit_edge.budget import parameters
from elit_edge.export.mil.library import coremltools
from elit_edge.export.to_coreml.package import write_velocities
from elit_edge.export.to_coreml.recipe import Recipe

NAMES = tuple(f"latents_0{latents}{batch}" for latents in (3, 4) for batch in ("", "_batch_2"))
LAYOUTS = ("ane", "gpu")
FLOATS = {"fp16": "FLOAT16", "fp32": "FLOAT32"}
RANKS = {"ane": 4, "gpu": 5}
SETS = {
    "ane": {
        *("add", "concat", "conv", "einsum", "gelu", "layer_norm", "mul", "pixel_shuffle", "real_div", "reduce_sum"),
        *("reshape", "slice_by_size", "softmax", "split", "sqrt", "tile", "transpose"),
    },
    "gpu": {
        *("add", "concat", "conv", "gelu", "layer_norm", "linear", "mul", "pixel_shuffle", "real_div", "reduce_sum"),
        *("reshape", "scaled_dot_product_attention", "slice_by_size", "split", "sqrt", "tile", "transpose"),
    },
}
"""Of a velocity from iOS 18 on: no gather, no cast; convolutions and no linear layer on the Neural Engine."""
CONDITION = {"add", "concat", "cos", "expand_dims", "gather", "linear", "mul", "silu", "sin"}


def description(written, name="velocity"):
    """What an app reads of a package, before anything is compiled."""
    return coremltools().utils.load_spec(str(written.folder / f"{name}.mlpackage")).description


def array_type(feature):
    array = feature.type.multiArrayType
    kinds = coremltools().proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType
    return kinds.Name(array.dataType), tuple(array.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_budget_and_batch_is_a_function_and_the_full_budget_the_default(packages, layout):
    written = packages(layout)
    assert written.package().functions == NAMES
    assert written.package().default_function == "latents_04"
    assert written.package("condition").functions == ("condition",)
    assert [(f.role, f.name, f.latents, f.batch) for f in written.functions] == [
        ("condition", "condition", None, 16),
        *(
            ("velocity", f"latents_0{latents}{'_batch_2' if batch == 2 else ''}", latents, batch)
            for latents in (3, 4)
            for batch in (1, 2)
        ),
    ]
    assert {f.package for f in written.functions} == {"condition.mlpackage", "velocity.mlpackage"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", FLOATS)
def test_the_description_says_types_and_shapes(packages, micro, layout, precision):
    written, kind = packages(layout, precision), FLOATS[precision]
    size = micro.config.modulation_size
    (own,) = description(written, "condition").functions
    assert {each.name: array_type(each) for each in own.input} == {"t": ("FLOAT32", (16,)), "y": ("INT32", (16,))}
    assert {each.name: array_type(each) for each in own.output} == {"modulations": (kind, (16, size))}
    functions = {each.name: each for each in description(written).functions}
    assert set(functions) == set(NAMES)
    for name, function in functions.items():
        batch = 2 if name.endswith("_batch_2") else 1
        modulations = (batch, size, 1, 1) if layout == "ane" else (batch, size)
        assert {each.name: array_type(each) for each in function.input} == {
            "x": (kind, (batch, 3, 8, 8)),
            "modulations": (kind, modulations),
        }
        assert {each.name: array_type(each) for each in function.output} == {"velocity": (kind, (batch, 3, 8, 8))}


@pytest.mark.parametrize(("layout", "ios"), [("ane", 18), ("gpu", 18), ("gpu", 17)])
def test_the_manifest_says_what_the_description_says(packages, layout, ios):
    written = packages(layout, "fp16", ios=ios)
    for function in written.functions:
        own = description(written, function.package.removesuffix(".mlpackage"))
        if function.name is not None:
            (own,) = (each for each in own.functions if each.name == function.name)
        for specs, features in ((function.inputs, own.input), (function.outputs, own.output)):
            told = [(each.name, *array_type(each)) for each in features]
            assert sorted((spec.name, spec.dtype.upper(), spec.shape) for spec in specs) == sorted(told)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_functions_read_the_same_weights(packages, layout):
    package = packages(layout).package()
    first, *others = (package.blob_offsets(name) for name in NAMES)
    assert len(first) > 30
    for offsets in others:
        assert offsets == first


@pytest.mark.parametrize("layout", LAYOUTS)
def test_four_functions_take_the_room_of_one(packages, micro, layout, tmp_path):
    alone = write(micro, Recipe(layout, "fp32"), tmp_path, (4,))
    assert packages(layout).weight_bytes() == alone.weight_bytes()
    # of the model: all but what conditions need; blobs have a header and are padded, small ones stand in the graph
    own = sum(value.numel() for name, value in micro.state_dict().items() if not is_of_condition(name))
    assert 0.95 * 4 * own < alone.weight_bytes() < 1.35 * 4 * own


def is_of_condition(name):
    return name.startswith(("time.", "label.", "final_modulation.")) or ".modulation." in name


def test_half_precision_takes_half(packages):
    for name in ("velocity", "condition"):
        ratio = packages("gpu", "fp16").weight_bytes(name) / packages("gpu").weight_bytes(name)
        assert 0.5 <= ratio < 0.6, name


def test_a_model_is_in_its_packages_once(packages, micro):
    """Nothing of the conditions is in the velocity's package, and the other way round."""
    total = sum(packages("ane").weight_bytes(name) for name in ("velocity", "condition"))
    assert total < 1.3 * 4 * parameters(micro.config)


def test_below_ios_18_each_function_has_a_package_of_its_own(packages):
    written = packages("gpu", "fp16", ios=17)
    names = ("latents_03", "latents_04")
    assert sorted(path.name for path in written.folder.iterdir()) == sorted(
        f"{name}.mlpackage" for name in ("condition", *names)
    )
    for name in names:
        assert written.package(name).functions == ("main",)
    assert [(f.name, f.package, f.latents, f.batch) for f in written.functions[1:]] == [
        (None, f"{name}.mlpackage", latents, 1) for name, latents in zip(names, (3, 4), strict=True)
    ]
    assert written.weight_bytes("latents_04") == pytest.approx(packages("gpu", "fp16").weight_bytes(), rel=0.02)


@pytest.mark.parametrize(
    ("layout", "ios", "version"), [("gpu", 16, 7), ("gpu", 17, 8), ("gpu", 18, 9), ("ane", 16, 7), ("ane", 26, 10)]
)
def test_the_least_ios_is_that_of_the_file(packages, layout, ios, version):
    """Core ML's specification versions: 7 came with iOS 16, 8 with 17, 9 with 18, 10 with 26."""
    written = packages(layout, "fp16", ios=ios)
    for function in written.functions:
        package = written.package(function.package.removesuffix(".mlpackage"))
        assert package.specification_version == version


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_operators_are_those_that_the_layout_is_made_of(packages, layout):
    for precision in FLOATS:
        assert {operation.type for operation in packages(layout, precision).operations()} == SETS[layout]
    assert {operation.type for operation in packages(layout).operations("condition")} == CONDITION
    assert {o.type for o in packages(layout, "fp16").operations("condition")} == CONDITION | {"cast"}


def test_attention_before_ios_18_is_two_products(packages):
    written = packages("gpu", "fp16", ios=17)
    assert {operation.type for operation in written.operations("latents_03")} == (
        SETS["gpu"] - {"scaled_dot_product_attention"} | {"matmul", "softmax"}
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_number_of_a_half_package_is_a_half(packages, layout):
    package = packages(layout, "fp16").package()
    for name in NAMES:
        program = package.program(name)
        values = [*program.inputs, *(output for operation in program.operations for output in operation.outputs)]
        assert {value.element.name for value in values if value.element.is_float} == {"float16"}
        constants = [constant.spec.element.name for constant in program.constants.values()]
        assert "float32" not in constants


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_are_fixed_and_of_few_axes(packages, layout):
    program = packages(layout).package().program("latents_03_batch_2")
    shapes = [output.shape for operation in program.operations for output in operation.outputs]
    assert all(None not in shape for shape in shapes)
    assert max(map(len, shapes)) == 4 <= RANKS[layout]
    constants = [constant.spec.shape for constant in program.constants.values()]
    assert max(map(len, constants)) <= RANKS[layout]


def test_the_neural_engines_layout_has_its_channels_on_the_second_axis(packages, micro):
    """[B, channels, rows, columns] from the embedding to the last convolution, whichever product it is."""
    program = packages("ane").package().program("latents_03_batch_2")
    products = [operation for operation in program.operations if operation.type == "conv"]
    width, hidden = micro.config.hidden_size, micro.config.mlp_hidden_size
    assert {o.outputs[0].shape[:2] for o in products} == {(2, n) for n in (width, 2 * width, 3 * width, hidden, 12)}
    kernels = {program.constants[o.arguments["weight"][0]].spec.shape[2:] for o in products[1:]}
    assert kernels == {(1, 1)}


def test_each_head_has_an_attention_of_its_own(packages, micro):
    """Two products a head: in three blocks, in Read and in Write."""
    program = packages("ane").package().program("latents_04")
    count = sum(operation.type == "einsum" for operation in program.operations)
    assert count == 2 * micro.config.num_heads * (micro.config.depth + 2)


@pytest.mark.parametrize("name", ["velocity", "condition"])
def test_the_metadata_are_the_packages_own(packages, name):
    fields = description(packages("ane"), name).metadata
    assert (fields.shortDescription, fields.author, fields.license, fields.versionString) == tuple(METADATA.values())


def test_the_same_inputs_give_the_same_bytes(micro, tmp_path):
    """Of the folder as a whole: no date, no random name."""

    def digests(name):
        folder = write(micro, Recipe("ane", "fp16", "lut4"), tmp_path / name, (3,), (1, 2)).folder
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }

    once = digests("a")
    assert len(once) == 6
    assert once == digests("b")


def test_nothing_is_left_among_the_temporary_files(micro, tmp_path, monkeypatch):
    """A package is as large as the model, and coremltools keeps its own copy until the process ends, if it may."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    write(micro, Recipe("gpu", "fp16", None, 17), tmp_path / "packages", (1, 4))
    assert list((tmp_path / "temporary").iterdir()) == []


def test_progress_rises_to_the_last_function(micro, tmp_path):
    told = []
    write_velocities(emission_of(micro, Recipe()), tmp_path, (1, 4), batches=(1,), report=told.append)
    assert told == [0, 0.5]


def test_the_weights_in_the_file_are_the_models(packages, micro):
    """Of a plain package, bit for bit, by the name of the layer."""
    package = packages("gpu").package()
    constants = package.program("latents_03").constants
    state = micro.state_dict()
    for name in ("blocks.0.attn.qkv", "blocks.1.mlp.fc1", "blocks.2.mlp.fc2", "read.mlp.fc1", "write.attn.kv_proj"):
        constant = constants[f"{name}.weight".replace(".", "_")]
        np.testing.assert_array_equal(package.array(constant), state[f"{name}.weight"].numpy())
    assert math.prod(constants["position"].spec.shape) == state["position"].numel()
