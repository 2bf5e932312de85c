"""Smoothing moves numbers between tensors and changes no velocity, wherever it says that it can."""

from __future__ import annotations

import copy
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from elit_edge.bundle import Bundle
from elit_edge.calibration.schemes import Scheme
from elit_edge.calibration.smoothing import Scaling, factors, folds, scalings, section_starts
from elit_edge.model.bundle_weights import TRANSPOSED

FOLDABLE = (
    "blocks.0.attn.qkv", "blocks.3.attn.qkv", "blocks.2.mlp.fc1", "blocks.5.mlp.fc1", "blocks.1.attn.proj",
    "blocks.4.attn.proj", "read.attn.kv_proj", "read.attn.proj", "read.mlp.fc1", "write.attn.proj", "final",
)  # fmt: skip
NOT_FOLDABLE = (
    "patch", "blocks.2.mlp.fc2", "read.attn.q_proj", "read.mlp.fc2", "write.attn.q_proj", "write.attn.kv_proj",
    "write.mlp.fc1", "write.mlp.fc2", "time.fc1", "blocks.0.modulation", "final_modulation",
)  # fmt: skip
BUDGETS = (1, 6, 16)
NOISE, BROKEN = 1e-5, 1e-2


@pytest.fixture(scope="module")
def site_of(tiny_sites):
    return {site.name: site for site in tiny_sites}


@pytest.fixture(scope="module")
def config(tiny_files):
    return tiny_files.manifest.model


def spread(size, seed=0):
    """Factors between 1/4 and 4."""
    return np.exp2(np.random.default_rng(seed).uniform(-2, 2, size)).astype(np.float32)


def velocities(model, states):
    rows = [0, 17, 40]
    x, t, y = (torch.from_numpy(part[rows]) for part in (states.x, states.t, states.y))
    with torch.no_grad():
        return torch.stack([model(x, t, y, latents) for latents in BUDGETS])


@pytest.fixture(scope="module")
def exact(tiny_model, tiny_states):
    return velocities(tiny_model, tiny_states)


def difference(model, moved, states, exact):
    """Of the velocity, relative, once the tensors of a copy of the torch model are scaled."""
    changed = copy.deepcopy(model)
    tensors = {**dict(changed.named_parameters()), **dict(changed.named_buffers())}
    for scaling in moved:
        own = tensors[scaling.tensor.removesuffix(TRANSPOSED)]
        turned = scaling.tensor.endswith(TRANSPOSED)
        values = own.detach().numpy().T if turned else own.detach().numpy()
        applied = scaling.apply(values)
        own.data = torch.from_numpy(np.ascontiguousarray(applied.T if turned else applied))
    return float((velocities(changed, states) - exact).norm() / exact.norm())


@pytest.mark.parametrize("name", FOLDABLE)
def test_a_folded_smoothing_leaves_the_velocity(name, site_of, config, tiny_model, tiny_states, exact):
    site = site_of[name]
    assert folds(site, config)
    moved = scalings(site, config, spread(site.inputs))
    assert difference(tiny_model, moved, tiny_states, exact) < NOISE


@pytest.mark.parametrize("name", FOLDABLE)
def test_each_part_of_a_folded_smoothing_is_needed_in_its_place(name, site_of, config, tiny_model, tiny_states, exact):
    """The control of the test above: without any one part, or with it one vector on, the velocity is another."""
    site = site_of[name]
    moved = scalings(site, config, spread(site.inputs))
    for place, part in enumerate(moved):
        others = moved[:place] + moved[place + 1 :]
        if part.tensor == "unit" and part.start - section_start(part, config) in (0, 3 * config.hidden_size):
            continue  # a shift has no one to be scaled
        assert difference(tiny_model, others, tiny_states, exact) > BROKEN * 0.1, part
        wrong = replace(part, start=part.start - config.hidden_size)
        if part.start:
            assert difference(tiny_model, [*others, wrong], tiny_states, exact) > BROKEN * 0.1, part


def section_start(part, config):
    return max(start for start in section_starts(config).values() if start <= part.start)


@pytest.mark.parametrize("name", NOT_FOLDABLE)
def test_other_layers_do_not_fold(name, site_of, config):
    site = site_of[name]
    assert not folds(site, config)
    (only,) = scalings(site, config, spread(site.inputs))
    assert (only.tensor, only.axis) == (site.weight, site.input_axis)


def test_every_layer_of_the_velocity_is_one_or_the_other(tiny_sites, config):
    kinds = {name.replace(name.split(".")[1], "N", 1) if name.startswith("blocks.") else name
             for name in FOLDABLE + NOT_FOLDABLE}  # fmt: skip
    for site in tiny_sites:
        parts = site.name.split(".")
        kind = ".".join(["blocks", "N", *parts[2:]]) if parts[0] == "blocks" else site.name
        assert kind in kinds | {"time.fc2", "read.modulation"}


def test_all_at_once_leave_the_velocity_of_the_graphs(build, tiny_sites, config, tiny_files, tiny_states):
    """In ONNX Runtime, and with each layer's factors of its own."""
    ours = [
        scaling
        for seed, site in enumerate(tiny_sites)
        if folds(site, config)
        for scaling in scalings(site, config, spread(site.inputs, seed))
    ]
    scaled = build("w8", Scheme({}, ours))
    rows = [0, 17, 40]
    x, t, y = (part[rows] for part in (tiny_states.x, tiny_states.t, tiny_states.y))
    with (
        Bundle(tiny_files).prepare("onnxruntime", "fp32", threads=1) as right,
        Bundle(scaled).prepare("onnxruntime", "w8", threads=1) as changed,
    ):
        assert np.abs(right.condition(t, y) - changed.condition(t, y)).max() > 0.1
        for latents in BUDGETS:
            wanted = right.velocity(x, t, y, latents)
            found = changed.velocity(x, t, y, latents)
            assert np.linalg.norm(found - wanted) < NOISE * np.linalg.norm(wanted)


def test_sections_are_where_the_model_packs_them(config, tiny_model):
    starts = section_starts(config)
    bias = {name: torch.randn_like(tiny_model.get_submodule(name).bias) for name in starts}
    marked = copy.deepcopy(tiny_model)
    for name, values in bias.items():
        layer = marked.get_submodule(name)
        layer.weight.zero_()
        layer.bias.copy_(values)
    marked.unit.zero_()
    packed = marked.condition(torch.zeros(1), torch.zeros(1, dtype=torch.int64))[0]
    for name, start in starts.items():
        assert torch.equal(packed[start : start + len(bias[name])], bias[name])
    assert sum(map(len, bias.values())) == config.modulation_size


def test_a_plain_sit_has_no_section_of_a_read(config):
    plain = msgspec.structs.replace(config, architecture="sit", head_depth=2, core_depth=0, tail_depth=0, group_size=1)
    width = config.hidden_size
    assert section_starts(plain) == {
        "blocks.0.modulation": 0,
        "blocks.1.modulation": 6 * width,
        "final_modulation": 12 * width,
    }


def test_factors_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    channel_max, weight = rng.uniform(0.1, 10, 8).astype(np.float32), rng.normal(size=(8, 5)).astype(np.float32)
    s = factors(channel_max, weight, 0.6)
    wanted = channel_max**0.6 / np.abs(weight).max(1) ** 0.4
    np.testing.assert_allclose(s / s[0], wanted / wanted[0], rtol=1e-5)
    assert np.exp(np.log(s).mean()) == pytest.approx(1, rel=1e-5)  # as a whole neither larger nor smaller
    assert s.dtype == np.float32


def test_alpha_goes_from_flat_weights_to_flat_activations():
    rng = np.random.default_rng(0)
    channel_max, weight = rng.uniform(0.1, 10, 8).astype(np.float32), rng.normal(size=(8, 5)).astype(np.float32)
    flat = channel_max / factors(channel_max, weight, 1.0)
    np.testing.assert_allclose(flat, flat[0], rtol=1e-5)
    rows = np.abs(weight).max(1) * factors(channel_max, weight, 0.0)
    np.testing.assert_allclose(rows, rows[0], rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_channels_of_zeros_give_numbers_that_can_be_divided_by(alpha):
    channel_max = np.array([0, 1, 0, 5], np.float32)
    weight = np.array([[1, 2], [0, 0], [0, 0], [3, 4]], np.float32)
    s = factors(channel_max, weight, alpha)
    assert np.isfinite(s).all()
    assert (s > 0).all()
    assert np.isfinite(1 / s).all()


def test_a_part_is_scaled_and_the_argument_stays():
    values = np.ones((2, 6), np.float32)
    found = Scaling("a", 1, 2, np.array([2, 3], np.float32)).apply(values)
    np.testing.assert_array_equal(found, [[1, 1, 2, 3, 1, 1]] * 2)
    np.testing.assert_array_equal(values, np.ones((2, 6)))
    found = Scaling("a", 0, 1, np.array([5], np.float32)).apply(values)
    np.testing.assert_array_equal(found, [[1] * 6, [5] * 6])
    np.testing.assert_array_equal(Scaling("a", 0, 1, np.array([5], np.float32)).apply(values[0]), [1, 5, 1, 1, 1, 1])
