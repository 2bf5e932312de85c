"""The model against the numbers of the authors' code, and against the model written again, slowly, from its spec."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from elit_edge.budget import parameters
from elit_edge.model.published_keys import translate
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig

TOLERANCE = 3e-6
"""In float32, for velocities of about 3: an RMS epsilon in the wrong place is off by 1e-5."""
BUDGETS = range(1, 17)
READ, WRITE = "input_token_editor.adapters.0.", "output_token_editor.adapters.0."


@pytest.fixture(scope="module")
def published():
    """The authors' weights, under their names."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        path = Path(__file__).parents[1] / "fixtures" / "official_tiny_a.pt"
        return torch.load(path, weights_only=True)["ema"]


@pytest.fixture(scope="module")
def inputs(expected):
    return tuple(torch.from_numpy(expected[name]) for name in ("x", "t", "y"))


@pytest.fixture(scope="module")
def models(tiny_checkpoint):
    """The authors' weights in both of the models that a config may declare."""
    return {write: model_of(tiny_checkpoint, write_latents=write) for write in ("all", "kept")}


@pytest.fixture(scope="module")
def plain(tiny_checkpoint, published):
    """The same weights without Read and Write: a plain SiT."""
    kept = {name: value for name, value in published.items() if not name.startswith((READ, WRITE))}
    fields = {"architecture": "sit", "head_depth": 6, "core_depth": 0, "tail_depth": 0, "group_size": 1}
    model = DiffusionTransformer(msgspec.structs.replace(tiny_checkpoint.config, **fields))
    model.load_state_dict(translate(kept, model.config, "here"))
    return model.requires_grad_(False).eval()


def model_of(checkpoint, **fields):
    model = DiffusionTransformer(msgspec.structs.replace(checkpoint.config, **fields))
    model.load_state_dict(checkpoint.weights)
    return model.requires_grad_(False).eval()


class SpecReadAloud:
    """One sample at a time, in float64, raster order, a loop over groups, published names and layouts."""

    def __init__(self, published, config):
        self.weights = {name: value.double() for name, value in published.items()}
        self.config = config

    def velocity(self, x, t, y, latents):
        samples = zip(x.double(), t.double(), y, strict=True)
        return torch.stack([self.one_velocity(*sample, latents) for sample in samples])

    def one_velocity(self, x, t, y, latents):
        config, c = self.config, self.condition(t, y)
        kernel, bias = self.weights["x_embedder.proj.weight"], self.weights["x_embedder.proj.bias"]
        convolved = torch.nn.functional.conv2d(x[None], kernel, bias, stride=config.patch_size)[0]
        tokens = convolved.reshape(config.hidden_size, -1).T + self.weights["pos_embed"][0]
        tail = config.head_depth + config.core_depth
        tokens = self.blocks(range(config.head_depth), tokens, c)
        if config.is_elastic:
            groups = [self.read(tokens[cells], c, cells) for cells in self.groups()]
            kept = torch.cat([found[:latents] for _, found in groups])
            core = self.blocks(range(config.head_depth, tail), kept, c).split(latents)
            for cells, (patches, found), source in zip(self.groups(), groups, core, strict=True):
                dropped = found[latents:] if config.write_latents == "all" else found[:0]
                tokens[cells] = self.write(patches, torch.cat([source, dropped]))
        tokens = self.blocks(range(tail, config.depth), tokens, c)
        shift, scale = self.linear("final_layer.adaLN_modulation.1", c).chunk(2)
        return self.image(self.linear("final_layer.linear", norm(tokens) * (1 + scale) + shift))

    def groups(self):
        """Raster indices of the cells of each group."""
        side, group = self.config.tokens_per_side, self.config.group_size
        for top in range(0, side, group):
            for left in range(0, side, group):
                yield [(top + i // group) * side + left + i % group for i in range(group**2)]

    def condition(self, t, y):
        angles = t * torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
        waves = torch.cat([angles.cos(), angles.sin()])
        embedded = self.linear("t_embedder.mlp.2", silu(self.linear("t_embedder.mlp.0", waves)))
        return silu(embedded + self.weights["y_embedder.embedding_table.weight"][y])

    def blocks(self, numbers, tokens, c):
        for name in (f"blocks.{number}." for number in numbers):
            shift1, scale1, gate1, shift2, scale2, gate2 = self.linear(name + "adaLN_modulation.1", c).chunk(6)
            seen = norm(tokens) * (1 + scale1) + shift1
            query, key, value = self.linear(name + "attn.qkv", seen).chunk(3, dim=-1)
            tokens = tokens + gate1 * self.linear(name + "attn.proj", self.attention(query, key, value))
            tokens = tokens + gate2 * self.mlp(name + "mlp", norm(tokens) * (1 + scale2) + shift2)
        return tokens

    def read(self, tokens, c, cells):
        layer = READ + "fit_layer."
        shift_p, scale_p, gate_a, shift_m, scale_m, gate_m, _ = self.linear(layer + "adaLN_modulation.1", c).chunk(7)
        patches, latents = tokens + self.weights[READ + "pos_embed"], self.weights[READ + "learned_query_embed"]
        seen = norm(patches) * (1 + scale_p) + shift_p
        latents = latents + gate_a * self.cross(layer + "latents_attend_to_patches.0", latents, seen)
        latents = latents + gate_m * self.mlp(layer + "read_ff.0", norm(latents) * (1 + scale_m) + shift_m)
        return patches, latents + self.weights[READ + "latent_pos_embed"][cells]

    def write(self, patches, latents):
        patches = patches + self.weights[WRITE + "pos_embed"]
        patches = patches + self.cross(WRITE + "patches_attend_to_latents.0", patches, latents)
        return patches + self.mlp(WRITE + "write_ff.0", patches)

    def image(self, patches):
        config = self.config
        side, size, channels = config.tokens_per_side, config.patch_size, config.in_channels
        image = torch.zeros(channels, config.image_size, config.image_size, dtype=torch.float64)
        for number, patch in enumerate(patches):
            top, left = (size * index for index in divmod(number, side))
            image[:, top : top + size, left : left + size] = patch.reshape(size, size, channels).permute(2, 0, 1)
        return image

    def linear(self, name, z):
        return z @ self.weights[name + ".weight"].T + self.weights.get(name + ".bias", 0.0)

    def rms_norm(self, name, z):
        return z / (z.square().mean(-1, keepdim=True).sqrt() + 1e-5) * self.weights[name + ".scale"]

    def mlp(self, name, z):
        hidden = self.linear(name + ".fc1", z)
        gelu = 0.5 * hidden * (1 + (math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)).tanh())
        return self.linear(name + ".fc2", gelu)

    def cross(self, name, target, source):
        key, value = self.linear(name + ".kv_proj", source).chunk(2, dim=-1)
        query = self.rms_norm(name + ".q_norm", self.linear(name + ".q_proj", target))
        return self.linear(name + ".proj", self.attention(query, self.rms_norm(name + ".k_norm", key), value))

    def attention(self, query, key, value):
        size = self.config.hidden_size // self.config.num_heads
        heads = zip(query.split(size, dim=1), key.split(size, dim=1), value.split(size, dim=1), strict=True)
        return torch.cat([(q @ k.T / math.sqrt(size)).softmax(-1) @ v for q, k, v in heads], dim=1)


def norm(z):
    return (z - z.mean(-1, keepdim=True)) / (z.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()


def silu(z):
    return z / (1 + (-z).exp())


def assert_same(actual, wanted):
    torch.testing.assert_close(actual, wanted, rtol=0, atol=TOLERANCE, check_dtype=False)


@pytest.mark.parametrize("latents", BUDGETS)
def test_the_velocity_is_the_authors(tiny_checkpoint, inputs, expected, latents):
    with torch.no_grad():
        velocity = tiny_checkpoint.model()(*inputs, latents)
    assert_same(velocity, torch.from_numpy(expected[f"v_{latents:02d}"]))


@pytest.mark.parametrize("latents", [1, 7, 16])
def test_the_spec_read_aloud_gives_the_authors_velocity_too(published, tiny_checkpoint, inputs, expected, latents):
    """What makes `SpecReadAloud` a reference for the models that the authors left no numbers of."""
    velocity = SpecReadAloud(published, tiny_checkpoint.config).velocity(*inputs, latents)
    assert_same(velocity, torch.from_numpy(expected[f"v_{latents:02d}"]))


@pytest.mark.parametrize("latents", [1, 7, 16])
def test_a_model_that_writes_the_kept_latents_alone_follows_the_spec(published, models, inputs, latents):
    model = models["kept"]
    assert_same(model(*inputs, latents), SpecReadAloud(published, model.config).velocity(*inputs, latents))


def test_a_plain_sit_follows_the_spec(published, plain, inputs):
    assert_same(plain(*inputs, 1), SpecReadAloud(published, plain.config).velocity(*inputs, 1))


@pytest.mark.parametrize("write", ["all", "kept"])
@pytest.mark.parametrize("latents", [1, 9, 16])
def test_conditions_computed_ahead_give_the_same_velocity(models, inputs, write, latents):
    model, (x, t, y) = models[write], inputs
    modulations = model.condition(t, y)
    assert modulations.shape == (len(x), model.config.modulation_size)
    assert torch.equal(model.velocity(x, modulations, latents), model(x, t, y, latents))


def test_conditions_of_a_plain_sit_computed_ahead_give_the_same_velocity(plain, inputs):
    x, t, y = inputs
    assert torch.equal(plain.velocity(x, plain.condition(t, y), 1), plain(x, t, y, 1))


def test_conditions_depend_on_time_and_label_alone_and_samples_do_not_mix(models, inputs):
    model, (x, t, y) = models["all"], inputs
    together = model(x, t, y, 5)
    for number in range(len(x)):
        own = slice(number, number + 1)
        assert_same(model(x[own], t[own], y[own], 5), together[own])


def shifted(model, latents):
    """A copy in which nothing but the places of the latents `latents` of every group is another."""
    copy = DiffusionTransformer(model.config)
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        copy.read.latent_position.view(model.config.groups, model.config.latents_per_group, -1)[:, latents] += 1.0
    return copy.requires_grad_(False)


@pytest.mark.parametrize("latents", [1, 8, 15])
def test_what_dropped_latents_carry_reaches_the_output_when_write_sees_all(models, inputs, latents):
    changed = shifted(models["all"], slice(latents, None))
    assert (changed(*inputs, latents) - models["all"](*inputs, latents)).abs().max() > 1e-3


@pytest.mark.parametrize("latents", [1, 8, 15])
def test_what_dropped_latents_carry_is_lost_when_write_sees_the_kept_alone(models, inputs, latents):
    changed = shifted(models["kept"], slice(latents, None))
    assert torch.equal(changed(*inputs, latents), models["kept"](*inputs, latents))


@pytest.mark.parametrize("write", ["all", "kept"])
def test_what_kept_latents_carry_reaches_the_output(models, inputs, write):
    changed = shifted(models[write], slice(0, 1))
    assert (changed(*inputs, 1) - models[write](*inputs, 1)).abs().max() > 1e-3


def test_at_the_full_budget_all_latents_are_the_kept_ones(models, inputs):
    assert torch.equal(models["all"](*inputs, 16), models["kept"](*inputs, 16))
    assert (models["all"](*inputs, 15) - models["kept"](*inputs, 15)).abs().max() > 1e-3


def test_guidance_by_the_null_class_ends_in_the_authors_samples(models, expected):
    """Ten Euler steps at scale 3, in float64 between the steps, with the label after the last as the null class."""
    model = models["all"]
    state, labels = expected["sampler_x"].astype(np.float64), torch.from_numpy(expected["sampler_y"])
    null = torch.full_like(labels, model.config.null_label)
    for step in range(10):
        x, t = torch.from_numpy(state).float(), torch.full((len(state),), 1 - step / 10)
        weak, asked = (model(x, t, y, 16).numpy().astype(np.float64) for y in (null, labels))
        state = state - 0.1 * (weak + 3 * (asked - weak))
    np.testing.assert_allclose(state, expected["sampler_euler10_cfg3_b1"], rtol=0, atol=1e-5)


def test_a_label_after_the_null_class_is_no_label(models, inputs):
    x, t, y = inputs
    with pytest.raises(IndexError):
        models["all"](x, t, torch.full_like(y, models["all"].config.null_label + 1), 16)


@pytest.mark.parametrize("elastic", [True, False], ids=["elit-sit", "sit"])
@pytest.mark.parametrize(("image_size", "group_size"), [(32, 4), (64, 8)], ids=["256px", "512px"])
@pytest.mark.parametrize(
    ("depth", "width", "heads", "tail"),
    [(12, 384, 6, 2), (12, 768, 12, 2), (24, 1024, 16, 4), (28, 1152, 16, 4)],
    ids=["S", "B", "L", "XL"],
)
def test_the_weights_of_every_published_size_are_as_many_as_budget_says(
    depth, width, heads, tail, image_size, group_size, elastic
):
    config = ModelConfig(
        architecture="elit-sit" if elastic else "sit",
        image_size=image_size,
        in_channels=4,
        patch_size=2,
        hidden_size=width,
        num_heads=heads,
        mlp_ratio=4.0,
        head_depth=depth - 2 - tail if elastic else depth,
        core_depth=2 if elastic else 0,
        tail_depth=tail if elastic else 0,
        group_size=group_size if elastic else 1,
        num_classes=1000,
    )
    with torch.device("meta"):
        model = DiffusionTransformer(config)
    assert sum(value.numel() for value in model.state_dict().values()) == parameters(config)


def test_an_unusual_mlp_width_is_counted_too(tiny_checkpoint):
    config = msgspec.structs.replace(tiny_checkpoint.config, mlp_ratio=8 / 3, in_channels=3, num_classes=1)
    model = DiffusionTransformer(config)
    assert sum(value.numel() for value in model.state_dict().values()) == parameters(config)
