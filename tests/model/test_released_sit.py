"""Files of the original SiT release, held to a model written here in that release's own convention."""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from elit_edge.errors import CheckpointError
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.model.layers import time_frequencies
from elit_edge.model_config import read_fields

WIDTH, HEADS, DEPTH, CHANNELS, PATCH, SIDE, CLASSES = 24, 3, 2, 4, 2, 8, 5
GRID = SIDE // PATCH
RELEASED = {"release": "sit", "num_heads": HEADS}


def random_weights(outputs=2):
    """A state dict with the names and shapes of the release, everywhere random."""
    shapes = {
        "x_embedder.proj.weight": (WIDTH, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (WIDTH,),
        "pos_embed": (1, GRID * GRID, WIDTH),
        "t_embedder.mlp.0.weight": (WIDTH, 256),
        "t_embedder.mlp.0.bias": (WIDTH,),
        "t_embedder.mlp.2.weight": (WIDTH, WIDTH),
        "t_embedder.mlp.2.bias": (WIDTH,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH),
        "final_layer.linear.weight": (PATCH * PATCH * CHANNELS * outputs, WIDTH),
        "final_layer.linear.bias": (PATCH * PATCH * CHANNELS * outputs,),
        "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
    }
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in range(DEPTH):
        for name, (rows, columns) in (layers | {"adaLN_modulation.1": (6, 1)}).items():
            shapes[f"blocks.{block}.{name}.weight"] = (rows * WIDTH, columns * WIDTH)
            shapes[f"blocks.{block}.{name}.bias"] = (rows * WIDTH,)
    generator = torch.Generator().manual_seed(11)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def released_velocity(weights, x, t, y):
    """What the release computes, in float64: t = 0 is noise, and half of the outputs are dropped at the end."""
    w = {name: value.double() for name, value in weights.items()}

    def linear(name, z):
        return z @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def modulated(z, shift, scale):
        return F.layer_norm(z, (WIDTH,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    batch = len(x)
    tokens = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=PATCH)
    tokens = tokens.flatten(2).transpose(1, 2) + w["pos_embed"]
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128).double()
    angles = t[:, None] * frequencies
    waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    time = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", waves)))
    c = F.silu(time + w["y_embedder.embedding_table.weight"][y])
    for block in (f"blocks.{number}." for number in range(DEPTH)):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = linear(block + "adaLN_modulation.1", c).chunk(6, dim=1)
        qkv = linear(block + "attn.qkv", modulated(tokens, shift_a, scale_a))
        q, k, v = qkv.reshape(batch, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(WIDTH // HEADS), dim=-1) @ v
        mixed = mixed.transpose(1, 2).reshape(batch, -1, WIDTH)
        tokens = tokens + gate_a[:, None] * linear(block + "attn.proj", mixed)
        hidden = F.gelu(linear(block + "mlp.fc1", modulated(tokens, shift_m, scale_m)), approximate="tanh")
        tokens = tokens + gate_m[:, None] * linear(block + "mlp.fc2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=1)
    out = linear("final_layer.linear", modulated(tokens, shift, scale))
    images = out.reshape(batch, GRID, GRID, PATCH, PATCH, -1)
    return torch.einsum("nhwpqc->nchpwq", images).reshape(batch, -1, SIDE, SIDE)[:, :CHANNELS]


def inputs():
    generator = torch.Generator().manual_seed(3)
    t = torch.tensor([0.0, 0.04, 0.31, 0.5, 0.77, 0.999, 1.0], dtype=torch.float64)
    x = torch.randn(len(t), CHANNELS, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return x, t, torch.arange(len(t)) % (CLASSES + 1)


@pytest.fixture
def released(tmp_path):
    """A function that writes weights as the release does: nothing but a state dict."""

    def written(weights):
        path = tmp_path / "SiT-tiny.pt"
        torch.save(weights, path)
        return path

    return written


def test_the_velocity_is_the_releases_with_time_and_sign_turned(released):
    weights = random_weights()
    checkpoint = read_checkpoint(released(weights), RELEASED)
    assert checkpoint.config.architecture == "sit"
    assert checkpoint.config.in_channels == CHANNELS
    x, t, y = inputs()
    wanted = -released_velocity(weights, x, 1 - t, y)
    with torch.no_grad():
        found = checkpoint.model()(x.float(), t.float(), y, 1)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)
    assert wanted.abs().max() > 1, "zeros would agree with anything"


def test_the_embedding_of_time_is_turned_exactly(released):
    """In float64, so that no rounding hides a wrong term: only that of the stored float32 weights is left."""
    weights = random_weights()
    turned = read_checkpoint(released(weights), RELEASED).weights["time.fc1.weight"].double()
    before, frequencies = weights["t_embedder.mlp.0.weight"].double(), time_frequencies().double()
    for t in np.linspace(0, 1, 11):
        ours, theirs = t * frequencies, (1 - t) * frequencies
        found = turned @ torch.cat([ours.cos(), ours.sin()])
        torch.testing.assert_close(found, before @ torch.cat([theirs.cos(), theirs.sin()]), rtol=0, atol=2e-6)


def test_half_precision_weights_are_turned_in_float32(released):
    weights = {name: value.half() for name, value in random_weights().items()}
    x, t, y = inputs()
    with torch.no_grad():
        found = read_checkpoint(released(weights), RELEASED).model()(x.float(), t.float(), y, 1)
    wanted = -released_velocity(weights, x, 1 - t, y)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)


def test_the_file_is_only_read(released):
    path = released(random_weights())
    before = path.read_bytes()
    read_checkpoint(path, RELEASED).model()
    assert path.read_bytes() == before


def test_a_file_of_either_release_is_asked_which_it_is(released):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(released(random_weights()), {"num_heads": HEADS})
    for said in ("SiT and of DiT", '{"release": "sit", "num_heads": 16}', "noise at 1,000 discrete times", "--config"):
        assert said in str(caught.value)


def test_a_file_of_the_dit_release_is_refused_with_the_reason(released):
    with pytest.raises(CheckpointError, match="cannot be used: it predicts noise at 1,000 discrete times"):
        read_checkpoint(released(random_weights()), RELEASED | {"release": "dit"})


@pytest.mark.parametrize("release", ["SiT", "", 1, ["sit"]])
def test_another_release_is_refused(released, release):
    with pytest.raises(CheckpointError, match=r"release = .* is unknown"):
        read_checkpoint(released(random_weights()), RELEASED | {"release": release})


@pytest.mark.parametrize("kind", ["elit", "plain"])
def test_a_file_with_one_output_a_channel_is_of_no_release(tiny_checkpoint, released, kind):
    path = tiny_checkpoint.path if kind == "elit" else released(random_weights(outputs=1))
    with pytest.raises(CheckpointError, match="is not of the SiT release, which gives two outputs a channel"):
        read_checkpoint(path, RELEASED)


def test_an_elit_with_two_outputs_a_channel_is_of_no_release(released):
    elit = {"input_token_editor.adapters.0.learned_query_embed": torch.zeros(4, WIDTH)}
    with pytest.raises(CheckpointError, match="is not of the SiT release"):
        read_checkpoint(released(random_weights() | elit), RELEASED)


def test_the_heads_are_asked_for(released):
    with pytest.raises(CheckpointError, match=r"does not say num_heads \(attention heads\)"):
        read_checkpoint(released(random_weights()), {"release": "sit"})


@pytest.mark.parametrize("name", ["final_layer.linear.weight", "final_layer.linear.bias", "t_embedder.mlp.0.weight"])
@pytest.mark.parametrize("shape", [None, (), (7,), (7, 3), (0,), (33, WIDTH), (48, WIDTH), (WIDTH, 255), (WIDTH, 258)])
def test_what_is_turned_may_neither_be_missing_nor_of_another_shape(released, name, shape):
    weights = random_weights()
    del weights[name]
    with pytest.raises(
        CheckpointError, match=r"is no SiT|is not of the SiT release|is no sit of this config|has shape"
    ):
        read_checkpoint(released(weights | ({} if shape is None else {name: torch.zeros(shape)})), RELEASED)


def test_a_file_of_the_authors_code_is_not_turned(released):
    """It has one output a channel, and the direction of time that is ours."""
    weights = random_weights(outputs=1)
    plain = read_checkpoint(released(weights), {"num_heads": HEADS}).weights
    assert torch.equal(plain["final.weight"], weights["final_layer.linear.weight"])
    assert torch.equal(plain["time.fc1.weight"], weights["t_embedder.mlp.0.weight"])


# Export of the uniform-compute baseline


@pytest.mark.parametrize("form", ["of the authors", "of the release"])
def test_a_plain_sit_is_exported_with_one_budget_and_proven(tmp_path, form):
    from click.testing import CliRunner

    from elit_edge.bundle import Bundle
    from elit_edge.cli.main import main

    checkpoint, config = tmp_path / "sit.pt", tmp_path / "sit.json"
    turned = form == "of the release"
    weights = random_weights(outputs=2 if turned else 1)
    settings = argparse.Namespace(model="SiT-tiny/2", num_classes=CLASSES, resolution=64, path_type="linear")
    torch.save(weights if turned else {"ema": weights, "args": settings}, checkpoint)
    config.write_text(json.dumps(RELEASED if turned else {"num_heads": HEADS}))
    target = tmp_path / "sit.elit"
    result = CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(target), "--config", str(config)])
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(target)
    assert bundle.manifest.model == read_checkpoint(checkpoint, read_fields(config)).config
    assert [budget.latents for budget in bundle.manifest.ladder] == [1]
    x, t, y = inputs()
    with bundle.prepare(runtime="onnxruntime") as session:
        found = session.velocity(x.float().numpy(), t.float().numpy(), y.numpy(), latents=1)
    wanted = released_velocity(weights, x, 1 - t if turned else t, y) * (-1 if turned else 1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
