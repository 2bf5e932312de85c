"""The one description of a model: what it accepts, what it refuses, and the numbers that follow from it."""

from __future__ import annotations

import json

import msgspec
import pytest

from elit_edge.errors import ConfigError
from elit_edge.model_config import ModelConfig, decode_fields, read_fields

XL_512PX = {
    "architecture": "elit-sit",
    "image_size": 64,
    "in_channels": 4,
    "patch_size": 2,
    "hidden_size": 1152,
    "num_heads": 16,
    "mlp_ratio": 4.0,
    "head_depth": 8,
    "core_depth": 16,
    "tail_depth": 4,
    "group_size": 8,
    "num_classes": 1000,
}
XL_256PX = XL_512PX | {"image_size": 32, "group_size": 4}
PLAIN = XL_256PX | {"architecture": "sit", "head_depth": 28, "core_depth": 0, "tail_depth": 0, "group_size": 1}


def config_of(fields):
    return ModelConfig.from_fields(fields, "here")


@pytest.mark.parametrize(
    ("fields", "tokens", "latents_per_group"), [(XL_256PX, 256, 16), (XL_512PX, 1024, 64), (PLAIN, 256, 1)]
)
def test_tokens_and_groups_are_those_of_the_published_models(fields, tokens, latents_per_group):
    config = config_of(fields)
    assert (config.tokens, config.latents_per_group) == (tokens, latents_per_group)
    assert config.groups == tokens // latents_per_group
    assert config.tokens_per_side**2 == tokens


def test_depth_width_and_labels_follow_from_the_fields():
    config = config_of(XL_256PX)
    assert config.depth == 28
    assert config.mlp_hidden_size == 4608
    assert config.patch_channels == 2 * 2 * 4
    assert config.null_label == 1000


@pytest.mark.parametrize(("fields", "vectors"), [(XL_256PX, 28 * 6 + 6 + 2), (PLAIN, 28 * 6 + 2)])
def test_modulations_are_six_vectors_a_block_and_two_for_the_final_layer_and_six_for_read(fields, vectors):
    assert config_of(fields).modulation_size == vectors * 1152


def test_only_a_model_with_a_latent_path_is_elastic():
    assert config_of(XL_256PX).is_elastic
    assert not config_of(PLAIN).is_elastic


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        (XL_256PX | {"image_size": 33}, "image_size 33 is not a multiple of patch_size 2"),
        (XL_256PX | {"group_size": 3}, "16 tokens a side do not divide into groups of 3"),
        (XL_256PX | {"num_heads": 7}, "hidden_size 1152 / num_heads 7"),
        (XL_256PX | {"core_depth": 0}, "core_depth >= 1"),
        (PLAIN | {"head_depth": 0}, "at least one block"),
        (PLAIN | {"core_depth": 1}, "a sit has no core, no tail and no groups"),
        (PLAIN | {"tail_depth": 1}, "a sit has no core, no tail and no groups"),
        (PLAIN | {"group_size": 4}, "a sit has no core, no tail and no groups"),
        (XL_256PX | {"class_names": ["cat", "dog"]}, "2 class_names for num_classes 1000"),
    ],
)
def test_a_config_in_contradiction_with_itself_is_refused_and_the_contradiction_named(fields, remedy):
    with pytest.raises(ConfigError, match=remedy):
        config_of(fields)


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"hidden_size": 1150, "num_heads": 2}, "hidden_size 1150"),
        ({"mlp_ratio": 1e-4}, "mlp_ratio 0.0001"),
        ({"mlp_ratio": 1e308}, r"mlp_ratio 1e\+308"),
        ({"mlp_ratio": 2e6}, "mlp_ratio 2000000.0"),
        ({"hidden_size": 10**400}, "hidden_size is above 2147483647"),
        ({"core_depth": 2**31}, "core_depth is above 2147483647"),
        ({"group_size": 1}, "an elit-sit needs group_size >= 2"),
    ],
)
def test_a_config_of_no_possible_model_is_refused(fields, remedy):
    with pytest.raises(ConfigError, match=remedy):
        config_of(XL_256PX | fields)


def test_all_contradictions_are_named_at_once():
    with pytest.raises(ConfigError, match=r"image_size 33 .*num_heads 7"):
        config_of(XL_256PX | {"image_size": 33, "num_heads": 7})


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (XL_256PX | {"budget": 4}, "budget"),
        (XL_256PX | {"num_heads": "16"}, "num_heads"),
        (XL_256PX | {"num_heads": 16.5}, "num_heads"),
        (XL_256PX | {"tail_depth": -1}, "tail_depth"),
        (XL_256PX | {"patch_size": 0}, "patch_size"),
        (XL_256PX | {"mlp_ratio": 0}, "mlp_ratio"),
        (XL_256PX | {"architecture": "unet"}, "unet"),
        (XL_256PX | {"write_latents": "some"}, "some"),
        (XL_256PX | {"class_names": [1] * 1000}, "class_names"),
    ],
)
def test_an_unknown_or_ill_typed_field_is_refused_and_named_with_its_source(fields, found):
    with pytest.raises(ConfigError, match=f"^here: .*{found}"):
        config_of(fields)


@pytest.mark.parametrize("name", sorted(XL_256PX))
def test_every_field_that_shapes_the_model_is_required(name):
    assert name in ModelConfig.required_fields()
    with pytest.raises(ConfigError, match=name):
        config_of({other: value for other, value in XL_256PX.items() if other != name})


def test_class_names_and_what_write_attends_to_may_be_left_out():
    assert set(ModelConfig.required_fields()) == set(XL_256PX)
    config = config_of(XL_256PX)
    assert config.write_latents == "all"
    assert config.class_names is None


def test_a_config_survives_json():
    named = config_of(XL_256PX | {"num_classes": 2, "class_names": ["⛵", "🐈"], "write_latents": "kept"})
    assert config_of(json.loads(named.encoded())) == named
    assert config_of(decode_fields(named.encoded(), "here")) == named


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        config_of(XL_256PX).num_heads = 12


def test_a_config_file_may_leave_out_what_a_checkpoint_says(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"num_heads": 3}')
    assert read_fields(path) == {"num_heads": 3}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"3",
        b"null",
        b'{"image_size": 16',
        b'{"a": "\xff"}',
        b"\xff\xfe{}",
        b'{"a":' + b"[" * 100_000,
    ],
    ids=["empty", "open", "list", "number", "null", "cut", "no utf-8", "utf-16", "deep"],
)
def test_a_config_file_that_holds_no_json_object_is_refused(tmp_path, data):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"config\.json is no JSON object"):
        read_fields(path)


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.json: No such file"):
        read_fields(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="directory"):
        read_fields(tmp_path)


def test_a_config_replaced_in_part_is_checked_again():
    with pytest.raises(ConfigError, match="num_heads 7"):
        msgspec.structs.replace(config_of(XL_256PX), num_heads=7)
