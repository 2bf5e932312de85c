"""Compressed weights against numbers computed here: numpy's, scikit-learn's objective, an unpacker of its own."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from export.to_coreml.tools import micro_config, random_model, relative_rms, states, write

from elit_edge.errors import RuntimeUnavailable
from elit_edge.export.to_coreml.compression import Stored, stored, written
from elit_edge.export.to_coreml.recipe import Recipe

ROWS, COLUMNS = 96, 128
COMPRESSIONS = ("int8", "int4", "lut6", "lut4", "w8a8")
TABLE = {"lut6": 64, "lut4": 16}


@pytest.fixture(scope="module")
def weight():
    """Rows of different sizes, an outlier, a row of zeros."""
    generator = np.random.default_rng(0)
    array = generator.normal(size=(ROWS, COLUMNS)) * np.geomspace(0.01, 1, ROWS)[:, None]
    array[3, 5] = 4.0
    array[7] = 0.0
    return array.astype(np.float32)


def unpacked(form: Stored, block=None):
    """The weight that a stored form stands for, in float64."""
    if form.table is not None:
        return form.table.astype(np.float64)[form.value]
    if form.scale is None:
        return form.value.astype(np.float64)
    scale = np.repeat(form.scale.astype(np.float64), form.value.shape[1] // form.scale.shape[1], axis=1)
    return form.value.astype(np.float64) * scale


@pytest.mark.parametrize("compression", ["int8", "w8a8"])
def test_eight_bits_are_within_half_a_step_of_each_rows_own_scale(weight, compression):
    form = stored(weight, compression, np.float16)
    step = np.abs(weight).max(axis=1, keepdims=True) / 127
    np.testing.assert_allclose(form.scale[step > 0], step[step > 0], rtol=2**-11)
    assert form.value.dtype == np.int8
    assert np.abs(form.value).max() == 127
    assert (np.abs(unpacked(form) - weight) <= step * (0.5 + 127 * 2.0**-11)).all()
    np.testing.assert_array_equal(unpacked(form)[7], 0)


def test_four_bits_have_a_scale_for_thirty_two_inputs(weight):
    form = stored(weight, "int4", np.float16)
    blocks = weight.reshape(ROWS, COLUMNS // 32, 32)
    step = np.abs(blocks).max(axis=2) / 7
    assert form.scale.shape == step.shape
    np.testing.assert_allclose(form.scale[step > 0], step[step > 0], rtol=2**-11)
    assert (form.value.min(), form.value.max()) == (-7, 7)
    error = np.abs(unpacked(form).reshape(blocks.shape) - blocks).max(axis=2)
    assert (error <= step * (0.5 + 7 * 2.0**-11)).all()
    np.testing.assert_array_equal(unpacked(form)[7], 0)


@pytest.mark.parametrize("compression", TABLE)
def test_a_table_is_as_good_as_scikit_learns_best(weight, compression):
    """Its objective on the weights themselves, the best of several starts; one value of the table a cluster."""
    from sklearn.cluster import KMeans

    form = stored(weight, compression, np.float16)
    ours = ((unpacked(form) - weight) ** 2).sum()
    best = KMeans(TABLE[compression], n_init=4, random_state=1).fit(weight.reshape(-1, 1)).inertia_
    assert ours < 1.1 * best
    assert len(form.table) == TABLE[compression]
    assert len(np.unique(form.value)) == TABLE[compression]


@pytest.mark.parametrize("compression", TABLE)
def test_every_weight_has_the_nearest_value_and_every_value_is_the_mean_of_its_weights(weight, compression):
    """What a table of least squares has to be, whoever finds it."""
    form = stored(weight, compression, np.float16)
    table = form.table.astype(np.float64)
    distances = np.abs(weight.reshape(-1, 1) - table)
    chosen = distances[np.arange(weight.size), form.value.reshape(-1)]
    # both were decided before the table was rounded to float16
    assert (chosen <= distances.min(axis=1) + 2 * np.abs(table).max() * 2.0**-11).all()
    means = np.array([weight[form.value == index].mean() for index in range(len(table))])
    np.testing.assert_allclose(table, means, atol=0.01 * np.abs(table).max())


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("constant", np.full((64, 64), 0.37)),
        ("zero", np.zeros((64, 64))),
        ("of few values", np.random.default_rng(0).choice([-1.0, 0.0, -0.0, 0.5, 3.0], size=(64, 64))),
    ],
)
def test_weights_with_fewer_values_than_the_table_are_kept(compression, name, array):
    """A table holds them as float16 has them; the others are off by a rounding of their scale. Nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = unpacked(stored(array.astype(np.float32), compression, np.float16))
    if compression in TABLE:
        np.testing.assert_array_equal(found, array.astype(np.float16))
    else:
        most = 7 if compression == "int4" else 127
        assert np.abs(found - array).max() <= np.abs(array).max() * (0.5 / most + 2.0**-11)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("shape", [(63, 65), (4096,), (16, 16, 16)])
def test_small_weights_and_those_that_are_no_matrix_stay(compression, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    form = stored(array, compression, np.float16)
    assert form.scale is form.table is None
    np.testing.assert_array_equal(form.value, array.astype(np.float16))


def test_a_matrix_that_does_not_divide_into_blocks_stays():
    array = np.random.default_rng(0).normal(size=(128, 48)).astype(np.float32)
    form = stored(array, "int4", np.float16)
    assert form.scale is None
    np.testing.assert_array_equal(form.value, array.astype(np.float16))


def test_without_scikit_learn_the_remedy_is_named(weight, monkeypatch):
    """As if it were not installed: its import fails."""
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(RuntimeUnavailable, match=r"need scikit-learn .* pip install 'elit-edge\[coreml\]'"):
        stored(weight, "lut4", np.float16)
    assert stored(weight, "int8", np.float16).scale is not None


@pytest.mark.parametrize("compression", TABLE)
def test_packed_indices_can_be_unpacked_bit_by_bit(ct, weight, compression):
    """The form of iOS 16, as MIL's reference has it: one after another, the lowest bit of each first."""
    bits = {"lut6": 6, "lut4": 4}[compression]
    form = stored(weight, compression, np.float16)
    with ct.converters.mil.mil.Function({}, opset_version=ct.target.iOS16):
        variable = written(form, "w", 16, 2)
    packed = variable.op.indices.val
    assert packed.dtype == np.uint8
    assert len(packed) == -(-weight.size * bits // 8)
    stream = int.from_bytes(packed.tobytes(), "little")
    indices = [stream >> bits * position & (1 << bits) - 1 for position in range(0, weight.size, 97)]
    assert indices == form.value.reshape(-1)[::97].tolist()
    assert variable.shape == (ROWS, COLUMNS, 1, 1)


@pytest.fixture(scope="module")
def ct():
    from elit_edge.export.mil.library import coremltools

    return coremltools()


@pytest.fixture(scope="module")
def wide():
    """A model whose matrices are worth compressing; Read's and Write's with 64 inputs."""
    return random_model(micro_config(hidden_size=64), seed=2)


MATRICES = ("blocks.0.attn.qkv", "blocks.1.mlp.fc2", "read.attn.kv_proj", "write.mlp.fc1")
FORMS = [
    ("gpu", "int8", 16),
    ("ane", "int8", 18),
    ("ane", "int4", 18),
    ("ane", "lut6", 16),
    ("gpu", "lut6", 18),
    ("ane", "lut4", 26),
]


@pytest.mark.parametrize(("layout", "compression", "ios"), FORMS)
def test_a_package_computes_with_the_weights_that_were_stored(wide, layout, compression, ios, tmp_path):
    """The torch model with its matrices replaced by what their stored forms stand for gives the same velocity."""
    package = write(wide, Recipe(layout, "fp16", compression, ios), tmp_path, (3,), conditions=False)
    replaced = random_model(wide.config, seed=2)
    for name, parameter in replaced.named_parameters():
        if name.endswith(".weight") and "modulation" not in name and name not in ("patch.weight", "label.weight"):
            form = stored(parameter.numpy(), compression, np.float16)
            parameter.copy_(torch.from_numpy(unpacked(form)))
    x, _, _ = states(wide.config, 1)
    modulations = np.asarray(wide.condition(torch.tensor([0.5]), torch.tensor([1]))).astype(np.float16)
    wanted = replaced.velocity(torch.from_numpy(x), torch.from_numpy(modulations).float(), 3).numpy()
    found = package.session().velocity_from(x, modulations, 3)
    assert relative_rms(found, wanted) < 2e-3  # what float16 costs in all that is not compressed
    plain = torch_velocity_of(wide, x, modulations)
    assert relative_rms(found, plain) > 4e-3  # and the compression is really there


def torch_velocity_of(model, x, modulations):
    return model.velocity(torch.from_numpy(x), torch.from_numpy(modulations).float(), 3).numpy()


@pytest.mark.parametrize(
    ("compression", "ios", "bits"), [("int8", 18, 8.5), ("lut6", 18, 6.5), ("int4", 18, 5.0), ("lut4", 16, 4.5)]
)
def test_what_a_compressed_matrix_takes(wide, compression, ios, bits, tmp_path):
    """Bits a weight of the matrices, scales and tables among them: the difference to a plain package says so."""
    recipe = Recipe("gpu", "fp16", compression, ios)
    small = write(wide, recipe, tmp_path / "small", (4,), conditions=False)
    plain = write(wide, Recipe("gpu", "fp16", None, ios), tmp_path / "plain", (4,), conditions=False)
    name = "velocity" if ios == 18 else "latents_04"
    matrices = sum(
        parameter.numel()
        for key, parameter in wide.named_parameters()
        if key.endswith(".weight") and parameter.numel() >= 4096 and not key.startswith(("time", "final", "label"))
        if "modulation" not in key
    )
    saved = plain.weight_bytes(name) - small.weight_bytes(name)
    assert 16 - 8 * saved / matrices == pytest.approx(bits, abs=0.5)


def test_four_bits_are_four_bits_where_a_matrix_is_one_block_wide(ct):
    """Its scale is [out, 1] then, as that of eight bits is."""
    array = np.random.default_rng(0).normal(size=(128, 32)).astype(np.float32)
    with ct.converters.mil.mil.Function({}, opset_version=ct.target.iOS18):
        variable = written(stored(array, "int4", np.float16), "w", 18, 0)
    types = ct.converters.mil.mil.types
    assert types.builtin_to_string(variable.op.data.dtype) == "int4"


def test_functions_share_what_was_compressed(wide, tmp_path):
    one = write(wide, Recipe("ane", "fp16", "lut4"), tmp_path / "one", (4,), conditions=False)
    two = write(wide, Recipe("ane", "fp16", "lut4"), tmp_path / "two", (1, 4), conditions=False)
    assert two.weight_bytes() == one.weight_bytes()
    first, second = (two.package().blob_offsets(name) for name in two.package().functions)
    assert first == second
