"""Our names and layouts, there and back again; the authors' names, as their files and their spec have them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from elit_edge.errors import CheckpointError
from elit_edge.model.published_keys import own_name, published_name, to_published, translate
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig

SIZES = {"in_channels": 3, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2.0, "num_classes": 5}
ELASTIC = ModelConfig(
    architecture="elit-sit",
    image_size=12,
    patch_size=2,
    head_depth=1,
    core_depth=2,
    tail_depth=1,
    group_size=3,
    **SIZES,
)
PLAIN = ModelConfig(
    architecture="sit", image_size=6, patch_size=3, head_depth=3, core_depth=0, tail_depth=0, group_size=1, **SIZES
)
both = pytest.mark.parametrize("config", [ELASTIC, PLAIN], ids=["elit-sit", "sit"])


@pytest.fixture(scope="module")
def tiny_file():
    """The authors' weights, under their names."""
    path = Path(__file__).parents[1] / "fixtures" / "official_tiny_a.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)["ema"]


def random_weights(config):
    generator = torch.Generator().manual_seed(5)
    state = DiffusionTransformer(config).state_dict()
    return {name: torch.randn(value.shape, generator=generator) for name, value in state.items()}


@both
def test_weights_published_and_translated_back_are_the_same(config):
    own = random_weights(config)
    back = translate(dict(to_published(own, config)), config, "here")
    assert back.keys() == own.keys()
    for name, value in own.items():
        assert torch.equal(back[name], value), name


@both
def test_names_published_and_translated_back_are_the_same_and_none_is_met_twice(config):
    names = list(random_weights(config))
    published = [published_name(name) for name in names]
    assert [own_name(name) for name in published] == names
    assert len(set(published)) == len(names)


def test_published_names_and_shapes_are_those_of_the_spec():
    width, latents, tokens = ELASTIC.hidden_size, ELASTIC.latents_per_group, ELASTIC.tokens
    shapes = {name: tuple(value.shape) for name, value in to_published(random_weights(ELASTIC), ELASTIC)}
    read, write = "input_token_editor.adapters.0.", "output_token_editor.adapters.0."
    stated = {
        "pos_embed": (1, tokens, width),
        "x_embedder.proj.weight": (width, 3, 2, 2),
        "x_embedder.proj.bias": (width,),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.2.weight": (width, width),
        "y_embedder.embedding_table.weight": (6, width),
        "blocks.3.attn.qkv.weight": (3 * width, width),
        "blocks.3.mlp.fc1.weight": (2 * width, width),
        "blocks.3.adaLN_modulation.1.weight": (6 * width, width),
        "final_layer.linear.weight": (12, width),
        "final_layer.adaLN_modulation.1.bias": (2 * width,),
        read + "learned_query_embed": (latents, width),
        read + "pos_embed": (latents, width),
        read + "latent_pos_embed": (tokens, width),
        read + "fit_layer.latents_attend_to_patches.0.kv_proj.weight": (2 * width, width),
        read + "fit_layer.latents_attend_to_patches.0.k_norm.scale": (width,),
        read + "fit_layer.read_ff.0.fc1.weight": (width, width),
        read + "fit_layer.adaLN_modulation.1.weight": (7 * width, width),
        write + "pos_embed": (latents, width),
        write + "patches_attend_to_latents.0.q_proj.weight": (width, width),
        write + "patches_attend_to_latents.0.q_norm.scale": (width,),
        write + "write_ff.0.fc2.weight": (width, width),
    }
    assert {name: shapes.get(name) for name in stated} == stated


def test_a_model_of_ours_has_the_weights_of_a_published_file_and_no_others(tiny_checkpoint, tiny_file):
    """All but the seventh vector of Read's modulation and the places of an 8 x 8 grid in a table for 64 x 64."""
    published = dict(to_published(tiny_checkpoint.weights, tiny_checkpoint.config))
    assert published.keys() == tiny_file.keys()
    for name, value in tiny_file.items():
        if "fit_layer.adaLN_modulation" in name:
            assert torch.equal(published[name][: 6 * 48], value[: 6 * 48]), name
            assert not published[name][6 * 48 :].any()
        else:
            assert torch.equal(published[name], value[:64] if "latent_pos_embed" in name else value), name


def test_training_heads_are_left_out():
    published = dict(to_published(random_weights(PLAIN), PLAIN))
    heads = {"projectors.0.0.weight": torch.zeros(2), "projectors.0.2.bias": torch.zeros(2)}
    assert translate(published | heads, PLAIN, "here").keys() == translate(published, PLAIN, "here").keys()


def test_an_unknown_weight_is_refused_and_named_with_its_source():
    published = dict(to_published(random_weights(PLAIN), PLAIN))
    with pytest.raises(CheckpointError, match=r"here: weight 'decoder\.weight' is no part of an ELIT-SiT or SiT"):
        translate(published | {"decoder.weight": torch.zeros(2)}, PLAIN, "here")


def test_a_name_that_is_not_ours_cannot_be_published():
    with pytest.raises(KeyError, match="nothing"):
        published_name("nothing.weight")
