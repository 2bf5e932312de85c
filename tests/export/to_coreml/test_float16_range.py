"""What float16 has to hold, against what torch's own layers give; and what is done where it cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from export.to_coreml.tools import emission_of, manifest_of, micro_config, observed, random_model, relative_rms, write
from torch import nn

from elit_edge.errors import ExportError
from elit_edge.export.to_coreml.observing import SEED, fitted, observed_cases, spread
from elit_edge.export.to_coreml.recipe import Recipe
from elit_edge.export.verify import trajectory_cases
from elit_edge.runtimes.reference.session import ModelSession

GREATEST = 65504
"""The greatest number of float16, as IEEE 754 has it."""
BUDGETS = (1, 4)
NORMS = ("read.attn.k_norm", "write.attn.q_norm", "write.attn.k_norm")


def seen_by_hooks(model, budgets=BUDGETS):
    """What enters and leaves every layer of torch on the observed states: {"blocks.0.mlp.fc1": (in, out)}, tensors."""
    found = {}

    def watch(name):
        def hook(_layer, inputs, output):
            found.setdefault(name, []).append((inputs[0].flatten(), output.flatten()))

        return hook

    reference = ModelSession(model, manifest_of(model.config))
    cases = {latents: trajectory_cases(reference, latents, SEED) for latents in budgets}
    handles = [
        layer.register_forward_hook(watch(name))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.RMSNorm) or name in NORMS
    ]
    for latents, states in cases.items():
        model.velocity(torch.from_numpy(states.x), torch.from_numpy(states.modulations), latents)
    for handle in handles:
        handle.remove()
    return {name: tuple(torch.cat(part) for part in zip(*seen, strict=True)) for name, seen in found.items()}


def fit(model, layout="gpu", **recipe):
    emission = emission_of(model, Recipe(layout, **recipe))
    manifest = manifest_of(model.config, BUDGETS)
    return fitted(emission, manifest, observed_cases(model, manifest), lambda _: None)


def held(model, recipe, folder):
    """The gate of float16 over packages of that recipe, and the packages."""
    written = write(model, recipe, folder, (4,))
    return written, written.held


@pytest.mark.parametrize("layout", ["ane", "gpu"])
def test_ranges_are_those_that_torchs_hooks_see(micro, layout):
    """In float32, so that both have the same weights: every layer's inputs and outputs, least and greatest."""
    manifest = manifest_of(micro.config, BUDGETS)
    ranges = observed(micro, Recipe(layout, "fp32"), manifest).ranges
    hooks = {name: seen for name, seen in seen_by_hooks(micro).items() if name not in {*NORMS, "patch"}}
    assert "write.attn.q_proj" in hooks
    del hooks["read.attn.q_proj"]  # of the queries alone: it is computed once, when the package is written
    for name, tensors in hooks.items():
        for end, tensor in zip(("in", "out"), tensors, strict=True):
            seen = ranges[f"{name}_{end}".replace(".", "_")]
            low, high = (value.item() for value in tensor.aminmax())
            assert (seen.low, seen.high) == (pytest.approx(low, rel=1e-4), pytest.approx(high, rel=1e-4)), name
    marks = {name for name in ranges if name.endswith(("_in", "_out"))}
    assert marks == {f"{name}_{end}".replace(".", "_") for name in hooks for end in ("in", "out")}


@pytest.mark.parametrize("layout", ["ane", "gpu"])
def test_the_headroom_is_float16s_greatest_over_the_greatest_number(layout):
    """That of a hidden layer, which is made the greatest by far."""
    model = random_model(micro_config())
    model.blocks[1].mlp.fc1.weight *= 300
    model.blocks[1].mlp.fc2.weight /= 300
    greatest = seen_by_hooks(model)["blocks.1.mlp.fc1"][1].abs().max().item()
    recipe, seen = fit(model, layout)
    assert 4 < GREATEST / greatest < 200
    assert seen.headroom == pytest.approx(GREATEST / greatest, rel=2e-3)  # weights are in float16
    assert recipe == Recipe(layout)


def test_the_sum_of_squares_of_a_norm_counts():
    """Its inputs are far smaller than what it adds up."""
    model = random_model(micro_config())
    width = model.config.hidden_size
    model.write.attn.kv_proj.weight[:width] *= 15
    key = seen_by_hooks(model)["write.attn.k_norm"][0].reshape(-1, width)
    greatest = key.square().sum(-1).max().item()
    assert 1e3 < greatest < GREATEST / 4
    assert fit(model)[1].headroom == pytest.approx(GREATEST / greatest, rel=5e-3)


def test_nothing_changes_for_a_tame_model(micro):
    recipe, seen = fit(micro, "ane")
    assert recipe == Recipe("ane")
    assert seen.headroom > 100
    assert seen.tight() == []


@pytest.fixture(scope="module")
def loud_norms():
    """All three norms add up squares far beyond float16; what comes out of them is as before."""
    model = random_model(micro_config())
    width = model.config.hidden_size
    for layer, factor in ((model.read.attn.kv_proj, 300), (model.write.attn.kv_proj, 900)):
        layer.weight[:width] *= factor
        layer.bias[:width] *= factor
    model.write.attn.q_proj.weight *= 300
    return model


@pytest.mark.parametrize("layout", ["ane", "gpu"])
def test_norms_that_overflow_are_computed_on_smaller_numbers_and_hold_the_gate(loud_norms, layout, tmp_path):
    sums = {
        name: inputs.reshape(-1, loud_norms.config.hidden_size).square().sum(-1).max().item()
        for name, (inputs, _) in seen_by_hooks(loud_norms).items()
        if name in NORMS
    }
    assert min(sums.values()) > GREATEST
    recipe, seen = fit(loud_norms, layout)
    assert set(recipe.prescale) == set(NORMS)
    assert recipe.wide == frozenset()
    assert seen.headroom >= 4
    for name, factor in recipe.prescale.items():
        assert math.frexp(factor)[0] == 0.5  # a power of two
        assert GREATEST / 64 < sums[name] * factor**2 < GREATEST / 4
    written, hold = held(loud_norms, recipe, tmp_path / "mended")
    assert hold().stored < 3e-3
    assert {o.type for o in written.operations()}.isdisjoint({"cast"})
    # without it the same packages have norms of infinite length
    plain, _ = held(loud_norms, Recipe(layout), tmp_path / "plain")
    reference = ModelSession(loud_norms, plain.manifest)
    cases = trajectory_cases(reference, 4)
    found = plain.session("stored").velocity(cases.x, cases.t, cases.y, 4)
    assert not relative_rms(found, cases.velocity) < 3e-3


@pytest.mark.parametrize("layout", ["ane", "gpu"])
def test_an_mlp_that_overflows_is_computed_in_float32(layout, tmp_path):
    model = random_model(micro_config())
    model.blocks[1].mlp.fc1.weight *= 3e4
    model.blocks[1].mlp.fc2.weight /= 3e4
    assert seen_by_hooks(model)["blocks.1.mlp.fc1"][1].abs().max() > GREATEST
    recipe, seen = fit(model, layout)
    assert recipe.wide == {"blocks.1.mlp"}
    assert recipe.prescale == {}
    assert seen.headroom >= 4  # of what is in float16
    written, hold = held(model, recipe, tmp_path)
    assert hold().stored < 3e-3
    wide = [o.name for o in written.operations() if o.outputs[0].element.name == "float32"]
    assert {"blocks_1_mlp_fc1", "blocks_1_mlp_fc2"} <= set(wide)
    assert len(wide) < 15  # that part alone: norm, modulation, two layers, GELU, gate, and the casts between
    for spec in (*written.functions[1].inputs, *written.functions[1].outputs):
        assert spec.dtype == "float16"


@pytest.mark.parametrize("layout", ["ane", "gpu"])
def test_scores_that_overflow_are_seen_in_the_fused_attention_too(layout):
    """Queries and keys fit, their products do not: softmax of such scores looks at one key alone."""
    model = random_model(micro_config())
    width = model.config.hidden_size
    model.blocks[0].attn.qkv.weight[: 2 * width] *= 180
    _, leaving = seen_by_hooks(model)["blocks.0.attn.qkv"]
    assert leaving.abs().max() < GREATEST / 4
    recipe, seen = fit(model, layout)
    assert recipe.wide == {"blocks.0.attn"}
    assert seen.headroom >= 4


def test_conditions_that_overflow_are_computed_in_float32(tmp_path):
    """What leaves the time embedding's first layer is beyond float16, and the modulations are as before."""
    model = random_model(micro_config())
    model.time.fc1.weight *= 3e4
    model.time.fc1.bias *= 3e4
    model.time.fc2.weight /= 3e4
    recipe, seen = fit(model)
    assert recipe.wide == {"condition"}
    assert seen.headroom >= 4
    written, hold = held(model, recipe, tmp_path)
    assert hold().stored < 3e-3
    (given,) = written.functions[0].outputs
    assert given.dtype == "float16"


def test_modulations_that_overflow_are_refused():
    model = random_model(micro_config())
    model.blocks[0].modulation.weight *= 6e4
    with pytest.raises(ExportError, match=r"stream_modulations of this model reaches .*--precision fp32"):
        fit(model)


def test_a_weight_that_float16_cannot_hold_is_named():
    model = random_model(micro_config())
    model.blocks[0].modulation.weight *= 1e6
    with pytest.raises(ExportError, match=r"modulation.weight of this model holds .*e\+0., and float16 ends at 65504"):
        fit(model)


def test_a_norm_and_an_mlp_at_once(loud_norms, tmp_path):
    model = random_model(loud_norms.config)
    model.load_state_dict(loud_norms.state_dict())
    model.blocks[2].mlp.fc1.weight *= 3e4
    model.blocks[2].mlp.fc2.weight /= 3e4
    recipe, seen = fit(model)
    assert (set(recipe.prescale), recipe.wide) == (set(NORMS), {"blocks.2.mlp"})
    assert seen.headroom >= 4
    assert held(model, recipe, tmp_path)[1]().stored < 3e-3


def test_a_stream_that_overflows_is_refused():
    """Layer norms hide it from the velocity: torch computes this model as well as any other."""
    model = random_model(micro_config())
    model.patch.weight *= 4e4
    with pytest.raises(ExportError, match=r"reaches .*e\+05 between its parts, .*--precision fp32"):
        fit(model)


def test_a_wide_part_in_a_norm_takes_no_smaller_numbers(loud_norms, tmp_path):
    """Both remedies at once would be none too many: float32 holds the sum as it is."""
    recipe = Recipe("gpu", wide=frozenset({"write.attn"}), prescale={"write.attn.k_norm": 2.0**-10})
    written, _ = held(loud_norms, recipe, tmp_path)
    constants = written.package().program("latents_04").constants
    values = [np.asarray(written.package().array(c)).item() for c in constants.values() if c.spec.shape == ()]
    assert 2.0**-10 not in [value for value in values if isinstance(value, float)]


@pytest.mark.parametrize(
    ("ladder", "chosen"),
    [
        (range(1, 17), (1, 2, 4, 8, 16)),
        (range(1, 65), (1, 3, 8, 23, 64)),
        (range(1, 5), (1, 2, 3, 4)),
        ((1,), (1,)),
        ((2, 16), (2, 16)),
    ],
)
def test_budgets_are_spread_in_equal_ratios(ladder, chosen):
    assert spread(tuple(ladder), 5) == chosen
