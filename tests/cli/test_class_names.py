"""Labels by name, from a checkpoint to a picture: ImageNet's names for 1,000 classes, and a list of one's own."""

from __future__ import annotations

import json
import re

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from elit_edge.bundle import Bundle
from elit_edge.cli.main import main
from elit_edge.model.checkpoint import config_json
from elit_edge.model.class_names import imagenet_class_names
from elit_edge.model.published_keys import to_published
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig

CLASSES = 1000
UNNAMED = ModelConfig(
    architecture="elit-sit",
    image_size=8,
    in_channels=3,
    patch_size=2,
    hidden_size=16,
    num_heads=2,
    mlp_ratio=2.0,
    head_depth=1,
    core_depth=1,
    tail_depth=1,
    group_size=2,
    num_classes=CLASSES,
)


def cli(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="elit-edge")


def assert_done(result):
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    return result.stderr


def assert_refused(result):
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds unnamed.safetensors (1,000 classes, random weights), own.txt (names of its own) and named.safetensors."""
    place = tmp_path_factory.mktemp("names")
    draw = torch.Generator().manual_seed(0)
    shapes = DiffusionTransformer(UNNAMED).state_dict()
    weights = {name: 0.1 * torch.randn(tensor.shape, generator=draw) for name, tensor in shapes.items()}
    published = {name: tensor.contiguous() for name, tensor in to_published(weights, UNNAMED)}
    save_file(published, place / "unnamed.safetensors", config_json(UNNAMED))
    said = msgspec.structs.replace(UNNAMED, class_names=tuple(f"said {number}" for number in range(CLASSES)))
    save_file(published, place / "named.safetensors", config_json(said))
    (place / "own.txt").write_text("".join(f"thing {number}, Ding {number}\n" for number in range(CLASSES)))
    return place


@pytest.fixture(scope="module")
def bundle(folder):
    """Named after ImageNet's classes."""
    said = assert_done(cli("export", folder / "unnamed.safetensors", "-o", folder / "unnamed.elit", "--no-verify"))
    assert "its 1000 classes have ImageNet's names; --class-names FILE" in said
    return folder / "unnamed.elit"


@pytest.fixture(scope="module")
def own_bundle(folder):
    """Named after own.txt, though the checkpoint has names."""
    asked = ["export", folder / "named.safetensors", "-o", folder / "own.elit", "--class-names", folder / "own.txt"]
    assert "ImageNet" not in assert_done(cli(*asked))
    return folder / "own.elit"


def test_a_class_of_imagenet_is_drawn_by_its_name(bundle, tmp_path):
    drawn = []
    for label in ("golden retriever", "Golden Retriever", "207", "208"):
        output = tmp_path / f"{label}.npy"
        assert_done(cli("generate", bundle, "--label", label, "--steps", 2, "-o", output, "--runtime", "onnxruntime"))
        drawn.append(np.load(output))
    assert np.array_equal(drawn[0], drawn[2])
    assert np.array_equal(drawn[1], drawn[2])
    assert not np.array_equal(drawn[3], drawn[2])


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("golden retreiver", "nearest: golden retriever (207), "),
        ("crane", "means 2 classes: 134 (crane, crane bird); 517 (crane, construction crane)"),
        ("qqqqqq", "elit-edge inspect BUNDLE --json lists them"),
    ],
)
def test_a_miss_is_one_short_line(label, words, bundle, tmp_path):
    line = assert_refused(cli("generate", bundle, "--label", label, "-o", tmp_path / "x.png"))
    assert words in line
    assert len(line) < 300
    assert list(tmp_path.iterdir()) == []


def test_inspect_shows_a_few_names_and_its_json_all(bundle):
    shown = cli("inspect", bundle).stdout
    (line,) = re.findall(r"^classes .*", shown, re.MULTILINE)
    assert line.split(maxsplit=1)[1] == "1000: tench, goldfish, great white shark ... toilet tissue"
    assert "retriever" not in shown
    assert json.loads(cli("inspect", bundle, "--json").stdout)["model"]["class_names"] == list(imagenet_class_names())


def test_a_list_of_ones_own_goes_before_what_the_checkpoint_says(own_bundle):
    manifest = Bundle.open(own_bundle).manifest
    assert [manifest.label(each) for each in ("thing 7, Ding 7", "thing 7", "DING 7", "7")] == [7] * 4
    assert msgspec.structs.replace(manifest.model, class_names=None) == UNNAMED


def test_names_do_not_make_another_model(own_bundle, folder):
    verified = cli("verify", own_bundle, "--checkpoint", folder / "unnamed.safetensors")
    assert "hold the gate" in assert_done(verified)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"sun\nmoon\n", "2 names for the 1000 classes of"),
        (b"sun\nsun\n", "classes 0 and 1 are both 'sun'"),
        (b"sun\n\nmoon\n", "class 1 has an empty name"),
        (b"\xff\xfes\x00u\x00n\x00", "no UTF-8 text"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_and_nothing_is_written(content, fault, folder, tmp_path):
    (tmp_path / "list.txt").write_bytes(content)
    asked = ["export", folder / "unnamed.safetensors", "-o", tmp_path / "x.elit"]
    line = assert_refused(cli(*asked, "--class-names", tmp_path / "list.txt"))
    assert fault in line
    assert "list.txt" in line
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]
