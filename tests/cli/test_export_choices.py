"""`elit-edge export --budgets`, `--dtype` and `--vae`, and `elit-edge verify --vae`: what they make, and refuse."""

from __future__ import annotations

import json
import shutil

import msgspec
import pytest
import torch
from click.testing import CliRunner
from export.conftest import MICRO
from export.vae.tools import save_kl, save_tiny
from safetensors.torch import save_file

from elit_edge.bundle import Bundle
from elit_edge.cli.main import main
from elit_edge.errors import BundleError
from elit_edge.export import model_graphs
from elit_edge.model.checkpoint import config_json
from elit_edge.model.published_keys import to_published
from elit_edge.model.transformer import DiffusionTransformer

CONFIGS = {
    "pixels": MICRO,
    "latents": msgspec.structs.replace(MICRO, in_channels=4),
    "plain": msgspec.structs.replace(MICRO, architecture="sit", head_depth=3, core_depth=0, tail_depth=0, group_size=1),
    "long": msgspec.structs.replace(MICRO, image_size=32, group_size=8),
}


def cli(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="elit-edge")


def refused(result, *words):
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    return True


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Files that say their own config."""
    folder = tmp_path_factory.mktemp("checkpoints")
    draw = torch.Generator().manual_seed(0)
    for name, config in CONFIGS.items():
        state = DiffusionTransformer(config).state_dict()
        weights = {key: 0.1 * torch.randn(value.shape, generator=draw) for key, value in state.items()}
        published = {key: value.contiguous() for key, value in to_published(weights, config)}
        save_file(published, folder / f"{name}.safetensors", config_json(config))
    return {name: folder / f"{name}.safetensors" for name in CONFIGS}


@pytest.fixture(scope="module")
def vaes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vaes")
    save_kl(folder / "kl")
    save_kl(folder / "other scale", scaling_factor=0.7)
    save_kl(folder / "eight", latent_channels=8)
    save_tiny(folder / "tiny")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def decoded(checkpoints, vaes, tmp_path_factory):
    """A bundle with both decoders, in float16."""
    target = tmp_path_factory.mktemp("decoded") / "decoded.elit"
    options = ["--dtype", "fp16", "--budgets", "4", "--vae", vaes / "kl", "--vae", vaes / "tiny"]
    result = cli("export", checkpoints["latents"], "-o", target, *options)
    assert result.exit_code == 0, result.stderr
    assert [line.split(" decoder")[0] for line in result.stderr.splitlines()[1:]] == ["full", "fast"]
    return target


def again(decoded, checkpoints, *options):
    return cli("export", checkpoints["latents"], "-o", decoded, *options)


def fixed_of(target):
    return sorted(graph.latents for graph in Bundle.open(target).manifest.graphs if graph.latents)


def test_the_budgets_asked_for_have_graphs_and_the_others_run(checkpoints, tmp_path):
    target = tmp_path / "two.elit"
    result = cli("export", checkpoints["pixels"], "-o", target, "--budgets", "4,1,4")
    assert result.exit_code == 0, result.stderr
    assert fixed_of(target) == [1, 4]
    picture = ["--label", "1", "--steps", "1", "--latents", "3", "--runtime", "onnxruntime", "-o", tmp_path / "3.png"]
    assert cli("generate", target, *picture).exit_code == 0
    assert (tmp_path / "3.png").is_file()
    same = cli("export", checkpoints["pixels"], "-o", target, "--budgets", "1,4")
    assert same.stderr.splitlines() == [f"{target} is up to date"]
    assert refused(cli("export", checkpoints["pixels"], "-o", target, "--budgets", "1"), "two.elit exists", "--force")


def test_of_64_budgets_the_powers_of_two_have_graphs(checkpoints, tmp_path):
    target = tmp_path / "long.elit"
    result = cli("export", checkpoints["long"], "-o", target, "--no-verify")
    assert "64 budgets" in result.stderr
    assert fixed_of(target) == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pixels", ["--budgets", "1,5"], ["budget 5 is not in this model's ladder: 1, 2, 3, 4"]),
        ("long", ["--budgets", "65"], ["budget 65", "1 to 64"]),
        ("plain", ["--budgets", "1"], ["a plain SiT has one budget", "leave out --budgets"]),
        ("pixels", ["--vae", "kl"], ["they are pictures", "leave out --vae"]),
        ("latents", ["--vae", "eight"], ["8 channels", "this model makes 4"]),
        ("latents", ["--vae", "kl", "--vae", "other scale"], ["two VAEs of one kind (AutoencoderKL)"]),
        ("latents", ["--vae", "empty"], ["holds no .safetensors"]),
        ("latents", ["--vae", "nowhere"], ["no VAE at"]),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(name, options, words, checkpoints, vaes, tmp_path, monkeypatch):
    monkeypatch.setattr(model_graphs, "trace", None)
    options = [vaes / option if (vaes / option).is_dir() or option == "nowhere" else option for option in options]
    assert refused(cli("export", checkpoints[name], "-o", tmp_path / "x.elit", *options), *words)
    assert list(tmp_path.iterdir()) == []


def test_up_to_date_looks_at_decoders_and_precision(decoded, checkpoints, vaes):
    whole = ["--dtype", "fp16", "--budgets", "4", "--vae", vaes / "tiny", "--vae", vaes / "kl"]
    assert again(decoded, checkpoints, *whole).stderr.splitlines() == [f"{decoded} is up to date"]
    others = [
        whole[:-2],
        [*whole[:-1], vaes / "other scale"],  # the same weights, another config
        ["--dtype", "fp32", *whole[2:]],
        [*whole, "--vae-dtype", "fp32"],
    ]
    for options in others:
        assert refused(again(decoded, checkpoints, *options), "decoded.elit exists", "--force")


def test_verify_holds_decoders_to_what_they_were_made_of(decoded, vaes):
    result = cli("verify", decoded, "--vae", vaes / "tiny", "--vae", vaes / "kl")
    assert result.exit_code == 0, result.stderr
    fast, full, rest = result.stderr.splitlines()
    parity = {each.kind: each.parity.psnr_db for each in Bundle.open(decoded).manifest.decoders}
    for line, kind, name in ((fast, "fast", "AutoencoderTiny"), (full, "full", "AutoencoderKL")):
        assert line.startswith(f"{kind} decoder ({name}, fp16): worst ")
        # the samples are those of the model that the bundle holds, in float16
        assert float(line.split()[-2]) == pytest.approx(parity[kind], abs=1)
    assert "digests hold" in rest
    words = ["other scale", "scale 0.7", "full decoder of decoded", "kl/", "scale 0.5"]
    assert refused(cli("verify", decoded, "--vae", vaes / "other scale"), *words)


def test_verify_asks_for_a_decoder_that_is_there(checkpoints, vaes, tiny_bundle_path):
    assert refused(cli("verify", tiny_bundle_path, "--vae", vaes / "kl"), "no full decoder", "--vae DIR")


def test_force_replaces_a_bundle_that_has_decoders(decoded, checkpoints, vaes, tmp_path, monkeypatch):
    target = shutil.copytree(decoded, tmp_path / "decoded.elit")
    weights = target / "decoders" / "full.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"full\.safetensors does not match its digest"):
        Bundle.open(target)
    halved = ["--dtype", "fp16", "--vae-dtype", "fp32"]
    made = again(target, checkpoints, "--no-verify", "--budgets", "4", *halved, "--vae", vaes / "tiny", "--force")
    assert made.exit_code == 0, made.stderr
    manifest = Bundle.open(target).manifest
    assert manifest.precisions == ("fp16",)
    (decoder,) = manifest.decoders
    assert (decoder.kind, decoder.precision, decoder.parity.latents) == ("fast", "fp32", "noise")
    assert list(tmp_path.iterdir()) == [target]


def test_what_needs_float32_says_how_to_get_it(decoded, tmp_path):
    remedy = "Export it again with --dtype fp32"
    assert refused(cli("calibrate", decoded, "--scheme", "int8", "-o", tmp_path / "x.elit"), "no fp32", remedy)
    assert refused(cli("compile", decoded, "--target", "coreml"), "no fp32", remedy)
    assert json.loads((decoded / "manifest.json").read_text())["coreml"] == []
