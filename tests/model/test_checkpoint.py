"""Reading checkpoints: what a file and a config say together, and every way in which they can be wrong."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import random
import re
import shutil
import zipfile
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from elit_edge.errors import CheckpointError, ConfigError
from elit_edge.model.checkpoint import config_json, read_checkpoint
from elit_edge.model.class_names import imagenet_class_names
from elit_edge.model_config import ModelConfig, read_fields

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = FIXTURES / "official_tiny_a.pt"
STATED = read_fields(FIXTURES / "official_tiny_a.json")
READ, WRITE = "input_token_editor.adapters.0.", "output_token_editor.adapters.0."
LATENT_TABLE = READ + "latent_pos_embed"
PLAIN_DEPTHS = {"architecture": "sit", "head_depth": 6, "core_depth": 0, "tail_depth": 0, "group_size": 1}


@pytest.fixture(scope="module")
def authors():
    """What the authors' file holds."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(TINY, weights_only=True)


@pytest.fixture
def write(authors, tmp_path):
    """A function that writes the authors' file with changes.

    `weights` are added to `ema`, those whose name starts with one of `without` are left out, `settings` are set in
    `args`; other keywords replace whole entries of the file.
    """

    def written(*, weights=(), without=(), settings=(), **entries):
        ema = {name: value for name, value in authors["ema"].items() if not name.startswith(tuple(without))}
        content = {
            "ema": ema | dict(weights),
            "opt": {},
            "args": argparse.Namespace(**vars(authors["args"]) | dict(settings)),
            "steps": 1234,
        }
        path = tmp_path / "checkpoint.pt"
        torch.save(content | entries, path)
        return path

    return written


@pytest.fixture
def write_safetensors(authors, tmp_path):
    """A function that writes the authors' weights as safetensors."""

    def written(metadata=None, *, without=(), dtype=torch.float32):
        weights = {name: value for name, value in authors["ema"].items() if not name.startswith(tuple(without))}
        path = tmp_path / "checkpoint.safetensors"
        save_file({name: value.to(dtype) for name, value in weights.items()}, path, metadata=metadata)
        return path

    return written


# What is read


def test_the_authors_file_gives_the_config_beside_it(tiny_checkpoint):
    assert tiny_checkpoint.config == ModelConfig(**STATED)
    assert tiny_checkpoint.path == TINY


def test_the_model_is_in_float32_and_ready_to_be_evaluated(tiny_checkpoint):
    model = tiny_checkpoint.model()
    assert not model.training
    tensors = [*model.parameters(), *model.buffers()]
    assert {(tensor.dtype, tensor.device.type) for tensor in tensors} == {(torch.float32, "cpu")}


def test_the_averaged_weights_are_read_and_not_the_last_ones(authors, write):
    path = write(model={name: value + 1 for name, value in authors["ema"].items()})
    weights = read_checkpoint(path, STATED).weights
    assert torch.equal(weights["final.bias"], authors["ema"]["final_layer.linear.bias"])
    assert torch.equal(weights["blocks.4.mlp.fc1.weight"], authors["ema"]["blocks.4.mlp.fc1.weight"])


def test_a_file_that_is_nothing_but_weights_is_read(authors, tmp_path):
    torch.save(authors["ema"], tmp_path / "weights.pt")
    checkpoint = read_checkpoint(tmp_path / "weights.pt", STATED)
    assert checkpoint.config == ModelConfig(**STATED)
    assert checkpoint.trained_latents == 1


def test_settings_may_be_a_dict(authors, write):
    assert read_checkpoint(write(args=vars(authors["args"])), STATED).config.head_depth == 2


def test_training_heads_are_left_out(write, tiny_checkpoint):
    path = write(weights={"projectors.0.0.weight": torch.zeros(3, 48), "projectors.0.2.bias": torch.zeros(3)})
    assert read_checkpoint(path, STATED).weights.keys() == tiny_checkpoint.weights.keys()


def test_a_sit_trained_with_projectors_is_read_with_all_that_its_training_left_beside_it(authors, write):
    """The arguments are those of a run of REPA."""
    heads = {f"projectors.0.{layer}.{kind}": torch.ones(7) for layer in (0, 2, 4) for kind in ("weight", "bias")}
    plain = {name: value for name, value in authors["ema"].items() if not name.startswith((READ, WRITE))}
    moments = {number: {"step": torch.tensor(9.0), "exp_avg": torch.ones(3)} for number in range(4)}
    settings = {"model": "SiT-S/2", "enc_type": "dinov2-vit-b", "proj_coeff": 0.5, "projector_embed_dims": "768"}
    settings |= {"encoder_depth": 8, "qk_norm": False, "fused_attn": True, "path_type": "linear", "prediction": "v"}
    settings |= {"weighting": "uniform", "legacy": False, "cfg_prob": 0.1, "mixed_precision": "fp16", "seed": 0}
    optimiser = {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0, 1, 2, 3]}]}
    path = write(weights=heads, without=[READ, WRITE], settings=settings, model=plain | heads, opt=optimiser)
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == ModelConfig(**STATED | PLAIN_DEPTHS | {"num_heads": 6})
    assert not [name for name in checkpoint.weights if "projectors" in name]
    assert len(checkpoint.weights) == len(plain)


@pytest.mark.parametrize(
    ("share", "latents"), [(0.9375, 1), (0.9, 1), (0.75, 4), (0.5, 8), (0.0, 16), (1.0, 1), (None, 1)]
)
def test_the_smallest_trained_budget_is_what_the_largest_mask_left(write, share, latents):
    assert read_checkpoint(write(settings={"elit_max_mask_prob": share}), STATED).trained_latents == latents


@pytest.mark.parametrize("rows", [4096, 64])
def test_places_of_latents_are_taken_from_the_table_by_raster_position(write, rows):
    table = torch.arange(rows, dtype=torch.float32)[:, None].expand(-1, 48)
    places = read_checkpoint(write(weights={LATENT_TABLE: table}), STATED).weights["read.latent_position"]
    side, group = 8, 4
    by_hand = [
        (top * group + i // group) * side + left * group + i % group
        for top in range(side // group)
        for left in range(side // group)
        for i in range(group**2)
    ]
    assert places.shape == (64, 48)
    assert places[:, 0].tolist() == by_hand


@pytest.mark.parametrize(
    ("size", "heads", "head_depth", "core_depth", "tail_depth"),
    [("S", 6, 2, 2, 2), ("B", 12, 2, 2, 2), ("L", 16, 1, 1, 4), ("XL", 16, 1, 1, 4)],
)
def test_a_published_name_says_the_heads_and_the_tail(write, size, heads, head_depth, core_depth, tail_depth):
    path = write(settings={"model": f"ELIT-SiT-{size}/2", "encoder_depth": head_depth})
    stated = {"num_heads": heads, "head_depth": head_depth, "core_depth": core_depth, "tail_depth": tail_depth}
    assert read_checkpoint(path).config == ModelConfig(**STATED | stated)


@pytest.mark.parametrize(("size", "heads"), [("S", 6), ("B", 12), ("L", 16), ("XL", 16)])
def test_a_plain_sit_of_a_published_name_needs_no_config(write, size, heads):
    """Its arguments hold the defaults of an ELIT's, which mean nothing here."""
    checkpoint = read_checkpoint(write(without=[READ, WRITE], settings={"model": f"SiT-{size}/2", "encoder_depth": 8}))
    assert checkpoint.config == ModelConfig(**STATED | PLAIN_DEPTHS | {"num_heads": heads})
    assert checkpoint.model().read is None


def test_a_plain_sit_without_settings_needs_its_heads_alone(write):
    path = write(without=[READ, WRITE], args=None)
    assert read_checkpoint(path, {"num_heads": 3}).config == ModelConfig(**STATED | PLAIN_DEPTHS)


def test_a_plain_sit_of_another_name_needs_its_heads_alone(write):
    path = write(without=[READ, WRITE], settings={"model": "SiT-tiny/2", "encoder_depth": 8})
    assert read_checkpoint(path, {"num_heads": 3}).config == ModelConfig(**STATED | PLAIN_DEPTHS)


def test_a_config_may_say_no_more_than_the_file_leaves_out(write):
    checkpoint = read_checkpoint(write(), {"num_heads": 3, "core_depth": 3, "tail_depth": 1})
    assert checkpoint.config == ModelConfig(**STATED)


@pytest.mark.parametrize("config", [{"num_heads": 3, "tail_depth": 1}, {"num_heads": 3, "core_depth": 3}])
def test_of_the_split_of_the_blocks_one_number_may_be_left_out(write, config):
    assert read_checkpoint(write(), config).config == ModelConfig(**STATED)


def test_a_config_adds_what_no_file_says(write):
    names = [f"class {number}" for number in range(10)]
    config = read_checkpoint(write(), STATED | {"class_names": names, "write_latents": "kept"}).config
    assert config.class_names == tuple(names)
    assert config.write_latents == "kept"


def thousand_classes(write, count=1000):
    table = torch.zeros(count + 1, 48)
    return write(weights={"y_embedder.embedding_table.weight": table}, settings={"num_classes": count})


NUMBERED = [f"class {number}" for number in range(1000)]


def test_a_thousand_classes_that_nobody_named_are_imagenets(write):
    stated = {"num_heads": 3, "tail_depth": 1}
    assert read_checkpoint(thousand_classes(write), stated).config.class_names == imagenet_class_names()
    assert read_checkpoint(thousand_classes(write, 999), stated).config.class_names is None


@pytest.mark.parametrize(("stated", "names"), [(NUMBERED, tuple(NUMBERED)), (None, None)])
def test_what_a_config_says_of_the_names_goes_before_imagenets(stated, names, write):
    config = {"num_heads": 3, "tail_depth": 1, "class_names": stated}
    assert read_checkpoint(thousand_classes(write), config).config.class_names == names


def test_a_list_of_names_of_the_wrong_length_is_refused_with_both_numbers(write):
    config = {"num_heads": 3, "tail_depth": 1, "class_names": NUMBERED[1:]}
    with pytest.raises(ConfigError, match=r"checkpoint\.pt with x\.json: .*999 class_names for num_classes 1000"):
        read_checkpoint(thousand_classes(write), config, "x.json")


# Safetensors


def test_safetensors_may_hold_their_config(tiny_checkpoint, write_safetensors):
    checkpoint = read_checkpoint(write_safetensors(config_json(tiny_checkpoint.config)))
    assert checkpoint.config == tiny_checkpoint.config
    torch.testing.assert_close(dict(checkpoint.weights), dict(tiny_checkpoint.weights), rtol=0, atol=0)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_without_a_config_take_the_one_given(write_safetensors, metadata):
    path = write_safetensors(metadata)
    assert read_checkpoint(path, STATED).config == ModelConfig(**STATED)
    with pytest.raises(CheckpointError, match=r"num_heads \(attention heads\).*--config FILE\.json"):
        read_checkpoint(path)


def test_safetensors_of_a_plain_sit_are_read(tiny_checkpoint, write_safetensors):
    config = msgspec.structs.replace(tiny_checkpoint.config, **PLAIN_DEPTHS)
    assert read_checkpoint(write_safetensors(config_json(config), without=[READ, WRITE])).config == config


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_make_a_model_in_float32(authors, write_safetensors, dtype):
    model = read_checkpoint(write_safetensors(dtype=dtype), STATED).model()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.final.weight, authors["ema"]["final_layer.linear.weight"].to(dtype).float())


def test_a_config_in_safetensors_and_one_given_may_say_the_same(tiny_checkpoint, write_safetensors):
    assert read_checkpoint(write_safetensors(config_json(tiny_checkpoint.config)), STATED).config.num_heads == 3


def test_a_config_in_safetensors_and_one_given_may_not_differ(tiny_checkpoint, write_safetensors):
    path = write_safetensors(config_json(tiny_checkpoint.config))
    with pytest.raises(CheckpointError, match="says num_heads = 3, the config says 6; correct the config"):
        read_checkpoint(path, STATED | {"num_heads": 6})


def test_class_names_in_safetensors_and_in_a_config_may_be_the_same(tiny_checkpoint, write_safetensors):
    named = msgspec.structs.replace(tiny_checkpoint.config, class_names=tuple("abcdefghij"))
    assert read_checkpoint(write_safetensors(config_json(named)), named.fields()).config == named


def test_names_that_differ_are_refused_without_telling_them_all(tiny_checkpoint, write_safetensors):
    names = tuple("abcdefghij")
    named = msgspec.structs.replace(tiny_checkpoint.config, class_names=names)
    with pytest.raises(
        CheckpointError, match=r"says class_names = \['a', .*\.\.\.\], the config says \['j', .*\.\.\.\]"
    ):
        read_checkpoint(write_safetensors(config_json(named)), {"class_names": list(reversed(names))})


def test_class_names_may_be_given_where_safetensors_hold_none(tiny_checkpoint, write_safetensors):
    path = write_safetensors(config_json(tiny_checkpoint.config))
    assert read_checkpoint(path, {"class_names": list("abcdefghij")}).config.class_names == tuple("abcdefghij")


@pytest.mark.parametrize(
    ("field", "value"), [("group_size", 2), ("num_classes", 9), ("hidden_size", 96), ("architecture", "sit")]
)
def test_safetensors_whose_config_contradicts_their_weights_are_refused(write_safetensors, field, value):
    metadata = {"config": msgspec.json.encode(STATED | {field: value}).decode()}
    with pytest.raises(CheckpointError, match=rf"contradicts itself: its weights say {field} = .*settings '?{value}"):
        read_checkpoint(write_safetensors(metadata))


@pytest.mark.parametrize(
    ("text", "found"),
    [("{", "config inside .*is no JSON object"), ("[]", "is no JSON object"), ('{"budget": 1}', "budget")],
)
def test_safetensors_with_a_config_that_is_none_are_refused(write_safetensors, text, found):
    with pytest.raises(ConfigError, match=found):
        read_checkpoint(write_safetensors({"config": text}), STATED)


# Damage


@pytest.mark.parametrize("name", ["absent.pt", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match="no checkpoint at "):
        read_checkpoint(tmp_path / name, STATED)


@pytest.mark.parametrize("length", [2, 4, 100, 10_000, "half", -1000, -22, -1])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_truncated_file_is_refused(write, write_safetensors, kind, length):
    path = write() if kind == "pt" else write_safetensors()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 if length == "half" else length])
    remedy = "download it again|convert the weights to safetensors"
    with pytest.raises(CheckpointError, match=remedy):
        read_checkpoint(path, STATED)


LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 11211595885\n"
)


def noise(length):
    return random.Random(0).randbytes(length)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"", "is empty; download it again"),
        (b"P", "convert the weights to safetensors"),
        (noise(5000), "convert the weights to safetensors"),
        (b"<!DOCTYPE html><html>Not found</html>", "is a web page, which the server sent .*download it again"),
        (b"\xef\xbb\xbf\n <html>", "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "is a web page"),
        (LFS_POINTER, "is a pointer of git-lfs to a file of 11211595885 bytes, .*git lfs pull"),
        (LFS_POINTER[:40], "is a pointer of git-lfs to a file, .*git lfs pull"),
        (b"PK" + noise(5000), "damaged or incomplete .*download it again"),
        (noise(8) + b"{" + noise(5000), "damaged or incomplete .*download it again"),
        ((9).to_bytes(8, "little") + b'{"a": 1} ', "damaged or incomplete .*download it again"),
    ],
    ids=[
        *["empty", "one byte", "noise", "a web page", "a page with a mark", "an error of a store", "a pointer"],
        *["half a pointer", "noise after PK", "noise like safetensors", "a foreign header"],
    ],
)
def test_a_file_of_other_bytes_is_refused(tmp_path, content, remedy):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=remedy):
        read_checkpoint(path, STATED)


def test_a_zip_of_other_things_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "notes.pt", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(CheckpointError, match=r"damaged or incomplete .*download it again"):
        read_checkpoint(tmp_path / "notes.pt", STATED)


@pytest.mark.parametrize(
    ("offset", "byte"),
    [
        (0, 0),
        (2, 0),
        (16020, 187),
        (6896, 30),
        (590, 71),
    ],
)
def test_a_wrong_byte_in_the_pickle_is_refused(tmp_path, offset, byte):
    with zipfile.ZipFile(TINY) as archive:
        start = TINY.read_bytes().index(archive.read("official_tiny_a/data.pkl"))
    content = bytearray(TINY.read_bytes())
    content[start + offset] = byte
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"download it again|ask its author for safetensors"):
        read_checkpoint(path, STATED)


# Code


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def whole(bomb, authors):
    return bomb


def in_the_weights(bomb, authors):
    return authors | {"ema": authors["ema"] | {"pos_embed": bomb}}


def in_the_settings(bomb, authors):
    return authors | {"args": argparse.Namespace(model=bomb)}


def in_what_is_not_needed(bomb, authors):
    return authors | {"opt": bomb}


@pytest.mark.parametrize("place", [whole, in_the_weights, in_the_settings, in_what_is_not_needed])
def test_code_in_a_file_is_refused_and_does_not_run(authors, tmp_path, place):
    marker, path = tmp_path / "boom", tmp_path / "checkpoint.pt"
    torch.save(place(Bomb(marker), authors), path)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the bomb is no bomb: this test could not fail"
    marker.rmdir()
    with pytest.raises(CheckpointError, match=r"a pickle can run code.*ask its author for safetensors"):
        read_checkpoint(path, STATED)
    assert not marker.exists()


def test_the_refusal_of_code_names_it_and_does_not_advise_to_run_it(authors, tmp_path):
    torch.save(whole(Bomb(tmp_path / "boom"), authors), tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="mkdir") as caught:
        read_checkpoint(tmp_path / "checkpoint.pt", STATED)
    assert "weights_only" not in str(caught.value)


def plain_pickle(bomb, path):
    path.write_bytes(pickle.dumps({"ema": bomb}))


def torch_pickle_of_old(bomb, path):
    torch.save({"ema": bomb}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [plain_pickle, torch_pickle_of_old])
def test_a_pickle_outside_an_archive_is_not_even_opened(tmp_path, save):
    marker, path = tmp_path / "boom", tmp_path / "checkpoint.pt"
    save(Bomb(marker), path)
    with path.open("rb") as stream:
        while not marker.exists():  # torch's old format is a row of pickles
            pickle.load(stream)
    marker.rmdir()
    with pytest.raises(CheckpointError, match=r"give the authors' \.pt, or convert the weights to safetensors"):
        read_checkpoint(path, STATED)
    assert not marker.exists()


def test_the_door_that_is_opened_for_settings_is_closed_again(write):
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(write(), STATED)
    assert set(torch.serialization.get_safe_globals()) == before


# Other contents


@pytest.mark.parametrize(("content", "kind"), [([1, 2], "list"), (torch.zeros(3), "Tensor"), ("text", "str")])
def test_a_file_that_holds_no_dict_is_refused(tmp_path, content, kind):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=f"holds a {kind}, not the dict of a checkpoint"):
        read_checkpoint(tmp_path / "checkpoint.pt", STATED)


@pytest.mark.parametrize("ema", [None, {}, [1], torch.zeros(2)], ids=["none", "empty", "list", "tensor"])
def test_a_file_without_averaged_weights_is_refused_and_its_keys_are_named(write, ema):
    with pytest.raises(CheckpointError, match="has no 'ema' weights; its keys are: args, ema, opt, steps"):
        read_checkpoint(write(ema=ema), STATED)


@pytest.mark.parametrize(("name", "value"), [("blocks.0.scale", 3), ("note", "hello"), (7, torch.zeros(2))])
def test_averaged_weights_that_are_no_named_tensors_are_refused(write, name, value):
    with pytest.raises(CheckpointError, match=f"'ema' holds {name!r}, which is no named tensor"):
        read_checkpoint(write(weights={name: value}), STATED)


def test_a_file_of_another_architecture_is_refused(write):
    foreign = nn.TransformerEncoderLayer(8, 2).state_dict()
    with pytest.raises(CheckpointError, match=r"holds no ELIT-SiT or SiT model.*other architectures are not supported"):
        read_checkpoint(write(ema=foreign), STATED)


FOREIGN = {
    "an MM-DiT": ["x_embedder.proj.weight", "pos_embed", "joint_blocks.0.x_block.attn.qkv.weight"],
    "a UNet": ["model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.time_embed.0.weight"],
    "a UNet or VAE of diffusers": ["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"],
    "a transformer of diffusers": ["pos_embed.proj.weight", "transformer_blocks.0.norm1.linear.weight"],
    "a VAE": ["quant_conv.weight", "encoder.mid.attn_1.q.weight"],
}


@pytest.mark.parametrize("bare", [True, False], ids=["nothing but weights", "beside settings"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_known_other_architecture_is_refused_by_its_name(write, tmp_path, kind, bare):
    weights = {name: torch.zeros(8, 4, 2, 2) for name in FOREIGN[kind]}
    path = write(ema=weights)
    if bare:
        torch.save(weights, path)
    with pytest.raises(CheckpointError, match=rf"holds {kind}, no ELIT-SiT or SiT model: it lacks '\w+"):
        read_checkpoint(path, STATED)


@pytest.mark.parametrize(
    ("name", "value", "supported"),
    [
        ("qk_norm", True, "False"),
        ("elit_read_depth", 2, "1"),
        ("elit_write_depth", 2, "1"),
        ("path_type", "GVP", "'linear'"),
    ],
)
def test_a_model_trained_in_another_way_is_refused(write, name, value, supported):
    with pytest.raises(CheckpointError, match=f"trained with {name} = {value!r}; only {supported} is supported"):
        read_checkpoint(write(settings={name: value}), STATED)


# Facts


def test_what_the_file_does_not_say_is_asked_for_by_name(write):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(write())
    for wanted in ("num_heads (attention heads)", "tail_depth (spatial blocks after Write)", "--config FILE.json"):
        assert wanted in str(caught.value)
    assert "head_depth" not in str(caught.value)


def test_without_settings_the_head_is_asked_for_too(write):
    with pytest.raises(CheckpointError, match=r"head_depth \(spatial blocks before Read\).*--config FILE\.json"):
        read_checkpoint(write(args=None), {"num_heads": 3, "tail_depth": 1})


@pytest.mark.parametrize(
    ("setting", "value", "contradiction"),
    [
        ("num_classes", 20, "weights say num_classes = 10, its settings 20"),
        ("elit_group_size", 2, "weights say group_size = 4, its settings 2"),
        ("resolution", 256, "positions say image_size = 16, its settings a resolution of 256 pixels"),
        ("resolution", 16, "positions say image_size = 16, its settings a resolution of 16 pixels"),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(write, setting, value, contradiction):
    with pytest.raises(CheckpointError, match=f"contradicts itself: its {contradiction}"):
        read_checkpoint(write(settings={setting: value}), STATED)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "sit"),
        ("image_size", 32),
        ("in_channels", 3),
        ("patch_size", 4),
        ("hidden_size", 96),
        ("mlp_ratio", 2.0),
        ("num_classes", 11),
        ("group_size", 2),
        ("head_depth", 1),
    ],
)
def test_a_config_that_contradicts_the_file_is_refused(write, field, value):
    with pytest.raises(CheckpointError, match=f"says {field} = .*, the config says {value!r}; correct the config"):
        read_checkpoint(write(), STATED | {field: value})


@pytest.mark.parametrize(
    ("heads", "error"), [(5, "hidden_size 48 / num_heads 5"), ("3", "num_heads"), (0, "num_heads")]
)
def test_a_config_that_cannot_be_is_refused(write, heads, error):
    with pytest.raises(ConfigError, match=error):
        read_checkpoint(write(), STATED | {"num_heads": heads})


@pytest.mark.parametrize("core_depth", [2, 4, 10**9], ids=["too few", "too many", "more than memory could hold"])
def test_a_split_that_does_not_add_up_to_the_blocks_is_refused(write, core_depth):
    fault = f"has 6 blocks, which are not head_depth = 2, core_depth = {core_depth}, tail_depth = 1; correct the config"
    with pytest.raises(CheckpointError, match=fault):
        read_checkpoint(write(), STATED | {"core_depth": core_depth})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("elit_max_mask_prob", "most"),
        ("elit_max_mask_prob", [0.5]),
        ("encoder_depth", "2"),
        ("num_classes", "10"),
        ("resolution", "128"),
    ],
)
def test_a_setting_that_is_no_number_is_refused(write, setting, value):
    with pytest.raises(CheckpointError, match=setting):
        read_checkpoint(write(settings={"model": "ELIT-SiT-S/2", setting: value}))


# Weights


@pytest.mark.parametrize(
    ("name", "found", "needed"),
    [
        ("final_layer.linear.bias", [17], [16]),
        ("blocks.2.attn.qkv.weight", [48, 144], [144, 48]),
        ("blocks.5.mlp.fc2.bias", [1, 48], [48]),
        (WRITE + "pos_embed", [15, 48], [16, 48]),
    ],
)
def test_a_weight_of_another_shape_is_refused(write, name, found, needed):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(write(weights={name: torch.zeros(found)}), STATED)
    assert f"has shape {found}, the config needs {needed}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pos_embed", [1, 64, 47]),
        ("pos_embed", [64]),
        ("pos_embed", [1, 65, 48]),
        ("x_embedder.proj.weight", [48, 16]),
        ("x_embedder.proj.weight", [48, 4, 2, 3]),
        ("x_embedder.proj.weight", [0, 4, 2, 2]),
        ("blocks.0.mlp.fc1.weight", []),
        ("blocks.first.mlp.fc1.weight", [2]),
        (LATENT_TABLE, [64, 47]),
        (LATENT_TABLE, [16, 48]),
        (LATENT_TABLE, [63, 48]),
        (LATENT_TABLE, [4096]),
        (READ + "learned_query_embed", [9, 48]),
        (READ + "learned_query_embed", [16]),
        (READ + "fit_layer.adaLN_modulation.1.bias", [5 * 48]),
        (READ + "fit_layer.adaLN_modulation.1.bias", [6 * 48]),
        (READ + "fit_layer.adaLN_modulation.1.bias", [9 * 48]),
    ],
)
def test_a_weight_that_says_what_the_model_is_may_have_no_other_shape_either(write, name, shape):
    with pytest.raises(CheckpointError, match=r"has shape|holds no ELIT-SiT or SiT model|contradicts itself|foreign"):
        read_checkpoint(write(weights={name: torch.zeros(shape)}), STATED)


@pytest.mark.parametrize("number", [6, 99_999])
def test_a_block_after_a_gap_is_refused_before_any_model_is_made(write, number):
    path = write(weights={f"blocks.{number}.mlp.fc2.bias": torch.zeros(48)}, without=["blocks.3."])
    with pytest.raises(CheckpointError, match=f"has a block {number}, and no block 3: it is not whole"):
        read_checkpoint(path, STATED)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pos_embed", (1, 10**12, 48)),
        ("x_embedder.proj.weight", (48, 4, 10**6, 10**6)),
        ("x_embedder.proj.weight", (2**30, 4, 2, 2)),
        ("y_embedder.embedding_table.weight", (2**31, 48)),
        ("blocks.0.mlp.fc1.weight", (2**40, 48)),
    ],
)
def test_a_tensor_that_is_vast_by_its_shape_alone_is_refused(write, name, shape):
    """A shape repeats one number without storing it again."""
    path = write(weights={name: torch.zeros(1).expand(shape)})
    with pytest.raises((CheckpointError, ConfigError)):
        read_checkpoint(path, {"num_heads": 2, "tail_depth": 1})


@pytest.mark.parametrize("missing", ["blocks.3.attn.qkv.weight", "final_layer.linear.bias", READ + "pos_embed"])
def test_a_missing_weight_is_refused(write, missing):
    with pytest.raises(CheckpointError, match=r"is no elit-sit of this config: it lacks .* and 0 more"):
        read_checkpoint(write(without=[missing]), STATED)


def test_weights_without_write_are_refused(write):
    with pytest.raises(CheckpointError, match=r"is no elit-sit of this config: it lacks .* and 10 more"):
        read_checkpoint(write(without=[WRITE]), STATED)


@pytest.mark.parametrize("name", ["decoder.weight", "blocks.0.attn.q_norm.weight"])
def test_a_foreign_weight_is_refused_and_named(write, name):
    with pytest.raises(CheckpointError, match=re.escape(name)):
        read_checkpoint(write(weights={name: torch.zeros(48)}), STATED)


def test_a_file_is_left_as_it_was(tmp_path):
    path = tmp_path / "copy.pt"
    shutil.copy(TINY, path)
    weights = copy.copy(read_checkpoint(path, STATED).weights)
    with torch.no_grad():
        weights["final.bias"].add_(1.0)
    assert path.read_bytes() == TINY.read_bytes()
