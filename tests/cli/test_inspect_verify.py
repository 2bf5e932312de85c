"""`elit-edge inspect` and `elit-edge verify`: what a bundle holds, and whether it computes what it should."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from elit_edge.cli.main import main

FIXTURES = Path(__file__).parents[1] / "fixtures"
CHECKPOINT = FIXTURES / "official_tiny_a.pt"
CONFIG = FIXTURES / "official_tiny_a.json"
SAMPLE = Path(__file__).parents[2] / "elit_edge" / "data" / "sample.safetensors"


def cli(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="elit-edge")


def assert_refused(result, *words):
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def with_manifest(bundle, folder, change):
    """A copy of a bundle whose manifest is changed."""
    copy = shutil.copytree(bundle, folder / bundle.name)
    path = copy / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return copy


@pytest.fixture(scope="module")
def short_bundle_path(tiny_bundle_path, tmp_path_factory):
    """The tiny bundle with two of its sixteen budgets, to be verified in a second."""
    dropped = []

    def shorten(manifest):
        kept = {None, 1, 16}
        dropped.extend(graph["path"] for graph in manifest["graphs"] if graph["latents"] not in kept)
        manifest["graphs"] = [graph for graph in manifest["graphs"] if graph["latents"] in kept]
        manifest["ladder"] = [rung for rung in manifest["ladder"] if rung["latents"] in kept]
        manifest["files"] = {name: entry for name, entry in manifest["files"].items() if name not in dropped}

    copy = with_manifest(tiny_bundle_path, tmp_path_factory.mktemp("short"), shorten)
    for name in dropped:
        (copy / name).unlink()
    return copy


@pytest.fixture
def damaged_bundle_path(tiny_bundle_path, tmp_path):
    copy = shutil.copytree(tiny_bundle_path, tmp_path / "x.elit")
    path = copy / "onnx" / "velocity_latents_08.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return copy


def test_inspect_shows_every_budget_and_what_it_costs(tiny_bundle_path):
    shown = cli("inspect", tiny_bundle_path)
    assert (shown.exit_code, shown.stderr) == (0, "")
    rows = re.findall(r"^│ (\d+) +│ ([\d.]+) +│ (\d+)% +│ \S+ +│$", shown.stdout, re.MULTILINE)
    assert [int(latents) for latents, _, _ in rows] == list(range(1, 17))
    costs = [float(cost) for _, cost, _ in rows]
    assert costs == sorted(costs)
    shares = [int(share) for _, _, share in rows]
    assert shares == sorted(set(shares))
    assert shares[-1] == 100


def test_inspect_says_what_the_model_is_and_where_it_came_from(tiny_bundle_path):
    shown = " ".join(cli("inspect", tiny_bundle_path).stdout.split())
    for words in [
        "tiny elit-sit, 0.3 M weights, width 48, 3 heads, 2-3-1 blocks, 4 x 16 latents",
        "samples 4 x 16 x 16 latents",
        "classes 10, unnamed",
        "gate 110 dB",
        "source official_tiny_a.pt",
        "onnx/condition.onnx",
        "onnx/velocity_latents_16.onnx",
        "onnx/weights.safetensors",
    ]:
        assert words in shown


@pytest.mark.parametrize("name", ["run[red]", "run[/b]"])
def test_inspect_shows_names_as_they_are(name, tiny_bundle_path, tmp_path):
    bundle = with_manifest(tiny_bundle_path, tmp_path, lambda manifest: manifest.update(name=name))
    shown = cli("inspect", bundle)
    assert shown.exit_code == 0
    assert shown.stdout.startswith(f"{name} ")


def test_inspect_json_is_the_manifest_exactly(tiny_bundle_path):
    shown = cli("inspect", tiny_bundle_path, "--json")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout_bytes == (tiny_bundle_path / "manifest.json").read_bytes()


def test_verify_passes_and_its_json_says_how_well(tiny_bundle_path):
    """At 16 budgets: condition and velocity at four times, for a class and for none; two other graphs at two states."""
    passed = cli("verify", tiny_bundle_path, "--json")
    assert (passed.exit_code, passed.stderr) == (0, "")
    found = json.loads(passed.stdout)
    assert found["cases"] == 16 * (4 * 2 * 2 + 2 * 2)
    assert found["gate_db"] == 110
    assert found["worst"]["psnr_db"] >= 110
    assert found["worst"]["relative_l2"] < 1e-5
    assert (tiny_bundle_path / found["worst"]["graph"]).is_file()


def test_verify_says_in_words_what_held(short_bundle_path):
    passed = cli("verify", short_bundle_path)
    assert (passed.exit_code, passed.stdout) == (0, "")
    (line,) = passed.stderr.splitlines()
    assert "digests hold" in line
    assert f"{2 * (4 * 2 * 2 + 2 * 2)} checks of 5 graphs" in line


def test_verify_passes_against_the_checkpoint_of_the_bundle(short_bundle_path):
    passed = cli("verify", short_bundle_path, "--checkpoint", CHECKPOINT, "--config", CONFIG, "--json")
    assert passed.exit_code == 0
    assert json.loads(passed.stdout)["worst"]["psnr_db"] >= 110


def test_verify_fails_against_a_checkpoint_with_other_weights(short_bundle_path, tmp_path):
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(CHECKPOINT, weights_only=True)
    content["ema"]["blocks.3.mlp.fc1.weight"] = content["ema"]["blocks.3.mlp.fc1.weight"] * 1.1
    torch.save(content, tmp_path / "other.pt")
    failed = cli("verify", short_bundle_path, "--checkpoint", tmp_path / "other.pt", "--config", CONFIG)
    assert_refused(failed, "below 110 dB", ".onnx", "dB", "do not compute what this model does")


def test_verify_refuses_a_checkpoint_of_another_architecture(short_bundle_path):
    assert_refused(cli("verify", short_bundle_path, "--checkpoint", SAMPLE), "sample.safetensors")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--checkpoint", CHECKPOINT], ["num_heads", "--config FILE.json"]),
        (["--checkpoint", "none.pt"], ["no checkpoint at none.pt"]),
        (["--checkpoint", CHECKPOINT, "--config", "none.json"], ["none.json", "No such file"]),
    ],
    ids=["no config", "missing checkpoint", "missing config"],
)
def test_verify_refuses_a_checkpoint_that_cannot_be_read(options, words, short_bundle_path):
    assert_refused(cli("verify", short_bundle_path, *options), *words)


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_damaged_bundle_is_refused(command, damaged_bundle_path):
    assert_refused(cli(command, damaged_bundle_path), "velocity_latents_08.onnx", "digest", "export it again")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_bundle_of_a_later_schema_is_refused(command, tiny_bundle_path, tmp_path):
    bundle = with_manifest(tiny_bundle_path, tmp_path, lambda manifest: manifest.update(schema_version=999))
    assert_refused(cli(command, bundle), "schema version 999", "export the bundle again")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_what_is_no_bundle_is_refused(command, tmp_path):
    assert_refused(cli(command, tmp_path), str(tmp_path), "no bundle")
    assert_refused(cli(command, tmp_path / "none.elit"), "none.elit", "elit-edge export")
