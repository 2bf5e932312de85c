"""Reading a VAE: what diffusers would make of it, and a word for all that it is not."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from export.vae.tools import CONFIG, WEIGHTS, change, diffusers_decode, noise, save_kl, save_tiny

from elit_edge.errors import CheckpointError, RuntimeUnavailable
from elit_edge.export.vae.source import check_fits, read_vae

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Of the attention, in the files of sd-vae-ft-ema and -mse."""


@pytest.fixture
def folder(kl_folder, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(kl_folder, tmp_path / "vae"))


def say(folder, **fields):
    """Change fields of the config; None leaves one out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def test_a_folder_of_diffusers_is_read(kl_folder):
    vae = read_vae(kl_folder)
    z = noise(2, 4, 5, 7)
    np.testing.assert_array_equal(vae.decode(z), diffusers_decode(kl_folder, z))
    assert (vae.kind, vae.layout, vae.latent_channels, vae.scale, vae.shift) == ("full", "AutoencoderKL", 4, 0.5, 0.25)
    assert vae.sha256 == hashlib.sha256((kl_folder / WEIGHTS).read_bytes()).hexdigest()
    assert vae.name == f"kl/{WEIGHTS}"


def test_a_distilled_one_is_the_fast_kind(tiny_folder):
    vae = read_vae(tiny_folder)
    z = noise(1, 4, 5, 7)
    np.testing.assert_array_equal(vae.decode(z), diffusers_decode(tiny_folder, z))
    assert (vae.kind, vae.layout, vae.scale, vae.shift) == ("fast", "AutoencoderTiny", 1.0, 0.0)


def test_scale_and_shift_are_undone(kl_folder):
    samples = np.array([[1.0, -3.0]], np.float32)
    np.testing.assert_array_equal(read_vae(kl_folder).unscaled(samples), [[1 / 0.5 + 0.25, -3 / 0.5 + 0.25]])


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_the_factor_is_that_of_the_pictures(blocks, tmp_path):
    for folder in (
        save_kl(tmp_path / "kl", block_out_channels=(8,) * blocks, layers_per_block=1),
        save_tiny(tmp_path / "tiny", blocks),
        save_tiny(tmp_path / "tiny3", blocks, upsampling_scaling_factor=3),
    ):
        vae = read_vae(folder)
        assert vae.decode(noise(1, 4, 2, 3)).shape == (1, 3, 2 * vae.factor, 3 * vae.factor)


def test_old_names_of_the_attention_are_known(kl_folder, folder):
    def rename(weights):
        for name in list(weights):
            for new, old in OLD_NAMES.items():
                if f".{new}." in name:
                    weights[name.replace(f".{new}.", f".{old}.")] = weights.pop(name)

    change(folder, rename)
    z = noise(1, 4, 5, 7)
    np.testing.assert_array_equal(read_vae(folder).decode(z), diffusers_decode(kl_folder, z))


def test_a_config_without_a_scale_has_that_of_stable_diffusion(folder):
    say(folder, scaling_factor=None, shift_factor=None)
    vae = read_vae(folder)
    assert (vae.scale, vae.shift) == (0.18215, 0.0)


def test_half_weights_are_computed_in_float32(folder):
    change(folder, lambda weights: weights.update({name: value.half() for name, value in weights.items()}))
    vae = read_vae(folder)
    assert {value.dtype for value in vae.module.parameters()} == {torch.float32}
    assert np.isfinite(vae.decode(noise(1, 4, 3, 3))).all()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([WEIGHTS, "diffusion_pytorch_model.fp16.safetensors", "a.safetensors"], WEIGHTS),
        (
            ["diffusion_pytorch_model.fp16.safetensors", "a.safetensors"],
            "diffusion_pytorch_model.fp16.safetensors",
        ),
        (["a.safetensors"], "a.safetensors"),
    ],
)
def test_of_several_files_the_one_of_diffusers_is_read(names, chosen, folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    for name in names:
        (folder / name).write_bytes(whole if name == chosen else b"not to be read")
    assert read_vae(folder).path.name == chosen
    assert read_vae(folder / chosen).path.name == chosen


def test_several_files_of_other_names_have_to_be_told_apart(folder):
    shutil.copyfile(folder / WEIGHTS, folder / "a.safetensors")
    (folder / WEIGHTS).rename(folder / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"several files of weights: a\.safetensors, b\.safetensors"):
        read_vae(folder)
    assert read_vae(folder / "b.safetensors").kind == "full"


def test_a_partial_download_says_how_many_bytes_are_missing(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-12345])
    with pytest.raises(CheckpointError, match=rf"{len(whole) - 12345} of {len(whole)} bytes, 12345 .*missing"):
        read_vae(folder)


@pytest.mark.parametrize("start", [b"", b"abc", b"<!DOCTYPE html><p>Sign in", b"\x07" * 4000])
def test_what_is_no_safetensors_is_refused(start, folder):
    (folder / WEIGHTS).write_bytes(start)
    with pytest.raises(CheckpointError, match=WEIGHTS):
        read_vae(folder)


def test_a_missing_and_a_foreign_weight_are_named(folder):
    def swap(weights):
        weights["decoder.conv_inn.bias"] = weights.pop("decoder.conv_in.bias")

    change(folder, swap)
    words = r"lacks decoder\.conv_in\.bias and has a foreign decoder\.conv_inn\.bias; give weights and config of one"
    with pytest.raises(CheckpointError, match=words):
        read_vae(folder)


def test_weights_of_another_size_are_told_in_a_line(folder):
    say(folder, block_out_channels=[16, 64])
    with pytest.raises(CheckpointError, match="size mismatch") as caught:
        read_vae(folder)
    assert len(str(caught.value)) < 240 + 3 * len(str(folder)) + 200
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"_class_name": "AutoencoderDC"}, "describes AutoencoderDC; elit-edge decodes with AutoencoderKL and"),
        ({"_class_name": None}, "a model without _class_name"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}, "latents_mean and latents_std"),
        ({"scaling_factor": 0}, "scaling_factor"),
        ({"scaling_factor": "0.5"}, "scaling_factor"),
        ({"block_out_channels": "16"}, "is no AutoencoderKL"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused(fields, words, folder):
    say(folder, **fields)
    with pytest.raises(CheckpointError, match=words):
        read_vae(folder)


def test_a_config_that_is_no_json_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"no JSON object.*download the VAE again"):
        read_vae(folder)


def test_what_makes_no_three_channels_is_no_decoder_of_pictures(tmp_path):
    with pytest.raises(CheckpointError, match="makes 4 channels, a picture has 3"):
        read_vae(save_kl(tmp_path / "four", out_channels=4))


def test_what_is_not_there_is_said(folder):
    with pytest.raises(CheckpointError, match="no VAE at"):
        read_vae(folder / "nowhere")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json beside it"):
        read_vae(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors"):
        read_vae(folder)


class _Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("as_file", [False, True])
def test_a_pickle_is_not_opened(as_file, folder, tmp_path):
    (folder / WEIGHTS).unlink()
    pickle, sprung = folder / "diffusion_pytorch_model.bin", tmp_path / "sprung"
    torch.save(_Trap(sprung), pickle)
    with pytest.raises(CheckpointError, match=r"pickle.*download the \.safetensors"):
        read_vae(pickle if as_file else folder)
    assert not sprung.exists()


def test_the_vae_has_to_be_the_models(kl_folder, tmp_path):
    check_fits(read_vae(kl_folder), CONFIG)
    other = read_vae(save_kl(tmp_path / "eight", latent_channels=8))
    with pytest.raises(CheckpointError, match=r"eight/.* decodes latents of 8 channels, this model makes 4"):
        check_fits(other, CONFIG)
    for channels in (1, 3):
        with pytest.raises(CheckpointError, match="they are pictures, and need no VAE"):
            check_fits(other, msgspec.structs.replace(CONFIG, in_channels=channels))


def test_without_diffusers_the_remedy_is_named(kl_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'elit-edge\[vae\]'"):
        read_vae(kl_folder)


QUIET = """
import sys
from pathlib import Path
from elit_edge.errors import CheckpointError
from elit_edge.export.vae.exporting import export_decoder
from elit_edge.export.vae.source import read_vae
assert "diffusers" not in sys.modules
try:
    read_vae(Path(sys.argv[1]))
except CheckpointError:
    print("refused")
"""


def test_diffusers_is_silent_and_not_imported_before_it_is_needed(folder):
    change(folder, lambda weights: weights.pop("decoder.conv_in.bias"))
    done = subprocess.run([sys.executable, "-c", QUIET, str(folder)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")
