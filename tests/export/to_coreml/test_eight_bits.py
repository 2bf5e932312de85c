"""w8a8: what enters and leaves each product is rounded as far as it was seen to go, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from export.to_coreml.tools import manifest_of, micro_config, observed, random_model, relative_rms, write
from torch import nn

from elit_edge.export.to_coreml.observing import SEED
from elit_edge.export.to_coreml.recipe import Recipe
from elit_edge.export.verify import trajectory_cases
from elit_edge.runtimes.reference.session import ModelSession

LAYOUTS = ("ane", "gpu")
OUTSIDE = ("patch", "time.", "modulation", "read.attn.q_proj")
"""Layers of torch that are no product of the velocity, or of the embedding, which is not rounded."""


@pytest.fixture(scope="module")
def model():
    return random_model(micro_config(), seed=3)


def budgets_of(model):
    return (1, 3) if model.config.is_elastic else (1,)


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """Packages of a layout with the ranges of two budgets."""
    known = {}

    def make(layout, model=model, key=None, **more):
        if (layout, key) not in known:
            manifest = manifest_of(model.config, budgets_of(model))
            recipe = Recipe(layout, "fp16", "w8a8", **more)
            seen = observed(model, recipe, manifest)
            recipe = replace(recipe, ranges=seen.ranges)
            known[layout, key] = write(model, recipe, tmp_path_factory.mktemp(layout), budgets_of(model))
        return known[layout, key]

    return make


def layers(model):
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not any(part in name for part in OUTSIDE)
    }


def greatest_by_hooks(model):
    """The greatest number that enters and leaves each layer on the observed states of both budgets."""
    greatest = {}

    def hook(name):
        def watch(_layer, inputs, output):
            for end, tensor in (("in", inputs[0]), ("out", output)):
                key = f"{name}_{end}"
                greatest[key] = max(greatest.get(key, 0.0), tensor.abs().max().item())

        return watch

    reference = ModelSession(model, manifest_of(model.config))
    cases = {latents: trajectory_cases(reference, latents, SEED) for latents in (1, 3)}
    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers(model).items()]
    for latents, states in cases.items():
        model.velocity(torch.from_numpy(states.x), torch.from_numpy(states.modulations), latents)
    for handle in handles:
        handle.remove()
    return {name.replace(".", "_"): value for name, value in greatest.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_scale_is_the_greatest_number_that_torch_saw_over_127(made, model, layout):
    """The same at both budgets, in a pair of operators of one scale and no zero point."""
    written, greatest = made(layout), greatest_by_hooks(model)
    package = written.package()
    for function in package.functions:
        program = package.program(function)
        pairs = [o for o in program.operations if o.type in ("quantize", "dequantize")]
        scales = {}
        for operation in pairs:
            scale = package.array(program.constants[operation.arguments["scale"][0]])
            scales.setdefault(operation.name.removesuffix("_q").removesuffix("_dq"), []).append(float(scale))
            assert "zero_point" not in operation.arguments
        assert {name: len(found) for name, found in scales.items()} == dict.fromkeys(greatest, 2)
        for name, (down, up) in scales.items():
            assert down == up == pytest.approx(greatest[name] / 127, rel=3e-3), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_product_but_the_embedding_stands_between_two_of_them(made, model, layout):
    program = made(layout).package().program("latents_03")
    makers = {output.name: o for o in program.operations for output in o.outputs}
    products = [o for o in program.operations if o.type in ("conv", "linear") and o.name != "patch"]
    assert {o.name for o in products} == {name.replace(".", "_") for name in layers(model)}
    readers = {}
    for operation in program.operations:
        for names in operation.arguments.values():
            for name in names:
                readers.setdefault(name, []).append(operation)
    for operation in products:
        assert makers[operation.arguments["x"][0]].type == "dequantize"
        assert [reader.type for reader in readers[operation.outputs[0].name]] == ["quantize"]


def test_the_numbers_are_those_of_a_torch_model_rounded_so(made):
    """A plain model, whose parts torch can hold as a package does: weights of eight bits where they are large enough,
    else of float16, inputs and outputs to so many levels of what was seen. All in exact numbers, in torch."""
    config = micro_config(architecture="sit", head_depth=2, core_depth=0, tail_depth=0, group_size=1)
    model, rounded = random_model(config), random_model(config)
    written = made("gpu", model=model, key="plain")

    def half(tensor):
        return tensor.half().float()

    def levels(tensor, name):
        scale = half(torch.tensor(written.recipe.ranges[name].greatest / 127))
        return (tensor / scale).round().clamp(-128, 127) * scale

    for parameter in rounded.parameters():
        parameter.copy_(half(parameter))
    for name, layer in layers(rounded).items():
        key = name.replace(".", "_")
        if layer.weight.numel() >= 4096:
            weight = model.get_parameter(f"{name}.weight")
            scale = half(weight.abs().amax(1, keepdim=True) / 127)
            layer.weight.copy_((weight / scale).round() * scale)
        layer.register_forward_pre_hook(lambda _, inputs, key=key: (levels(inputs[0], f"{key}_in"),))
        layer.register_forward_hook(lambda _, _inputs, output, key=key: levels(output, f"{key}_out"))
    x = half(torch.from_numpy(trajectory_cases(ModelSession(model, written.manifest), 1).x))
    modulations = half(model.condition(torch.full((len(x),), 0.5), torch.ones(len(x), dtype=torch.int64)))
    wanted = rounded.velocity(x, modulations, 1).numpy()
    plain = model.velocity(x, modulations, 1).numpy()
    found = written.session().velocity_from(x.numpy(), modulations.numpy(), 1)
    loss = relative_rms(wanted, plain)
    assert 1e-3 < loss < 0.1
    assert relative_rms(found, wanted) < loss / 5  # a number that falls on a level's edge may take the other one


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_holds_its_gate(made, model, layout):
    written = made(layout)
    found = written.held()
    assert 30 < found.psnr_db < 60


def test_parts_in_float32_are_not_rounded(made, model):
    written = made("gpu", key="wide", wide=frozenset({"blocks.1.mlp"}))
    names = {o.name for o in written.operations() if o.type == "quantize"}
    assert "blocks_1_attn_qkv_in_q" in names
    assert not [name for name in names if name.startswith("blocks_1_mlp")]


def test_a_product_that_is_always_zero_stays_so(made):
    """Its range is a point: a scale of zero would be no number."""
    model = random_model(micro_config(), seed=4)
    model.read.mlp.fc1.weight.zero_()
    written = made("ane", model=model, key="zero")
    cases = trajectory_cases(ModelSession(model, written.manifest), 3)
    for mode in ("exact", "stored"):
        found = written.session(mode).velocity(cases.x, cases.t, cases.y, 3)
        assert np.isfinite(found).all()
        assert relative_rms(found, cases.velocity) < 0.1


def test_ios_17_has_it_too(model, tmp_path):
    manifest = manifest_of(model.config, (3,))
    recipe = Recipe("gpu", "fp16", "w8a8", 17)
    seen = observed(model, recipe, manifest)
    written = write(model, replace(recipe, ranges=seen.ranges), tmp_path, (3,))
    assert {"quantize", "dequantize"} <= {o.type for o in written.operations("latents_03")}
    assert written.held().psnr_db > 30
