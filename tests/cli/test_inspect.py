"""`elit-edge inspect`: budgets of large models, guidance, decoders, and two bundles side by side."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

import msgspec
import pytest
from click.testing import CliRunner

from elit_edge.bundle import Bundle
from elit_edge.cli.main import main
from elit_edge.manifest import Decoder, DecoderParity, Tiling
from elit_edge.profiling.choosing import profiles_of

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
XL_256PX = {**XL_512PX, "image_size": 32, "group_size": 4}
PLAIN_XL_256PX = {
    **XL_256PX,
    "architecture": "sit",
    "head_depth": 28,
    "core_depth": 0,
    "tail_depth": 0,
    "group_size": 1,
}


@pytest.fixture(autouse=True)
def nothing_measured(tmp_path, monkeypatch):
    """The manifests here are made up over the graphs of a real bundle, which other tests may have measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def inspect(*arguments, columns=160):
    result = CliRunner().invoke(main, ["inspect", *map(str, arguments)], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def bundle_of(tiny_bundle_path, tmp_path):
    """The tiny bundle under another manifest: what `inspect` shows stands there, whatever its graphs compute."""

    def make(name, **changes):
        copy = shutil.copytree(tiny_bundle_path, tmp_path / f"{name}.elit")
        manifest = json.loads((copy / "manifest.json").read_bytes())
        (copy / "manifest.json").write_text(json.dumps({**manifest, "name": name, **changes}))
        return copy

    return make


def ladder(budgets):
    return [
        {
            "latents": latents,
            "velocity_flops": latents * 10**9,
            "weight_bytes": 1_500_000,
            "activation_bytes": latents * 10**6,
        }
        for latents in budgets
    ]


def rows_of(shown):
    return re.findall(r"^│ (\d+) +│ ([\d.]+) +│ (\d+)% +│ (\S+) +│$", shown, re.MULTILINE)


def test_a_budget_says_what_it_moves(bundle_of):
    rows = rows_of(inspect(bundle_of("some", ladder=ladder(range(1, 17)))).stdout)
    assert [row[0] for row in rows] == [str(latents) for latents in range(1, 17)]
    assert [rows[0][3], rows[15][3]] == ["2.5", "17.5"]


def test_what_a_bundle_of_an_earlier_version_moves_is_unknown(bundle_of):
    rungs = [{"latents": 4, "velocity_flops": 10**9}]
    assert rows_of(inspect(bundle_of("old", ladder=rungs)).stdout) == [("4", "1.000", "100", "unknown")]


def test_of_64_budgets_a_few_are_shown_and_the_others_told_of(bundle_of):
    shown = inspect(bundle_of("xl", model=XL_512PX, ladder=ladder(range(1, 65)))).stdout
    assert [int(row[0]) for row in rows_of(shown)] == [1, 2, 4, 8, 16, 32, 64]
    assert "the 57 budgets between them work too" in shown


@pytest.mark.parametrize(("weak", "costs"), [(1, 363.8), (2, 372.0)])
def test_cheap_guidance_says_what_it_saves(weak, costs, bundle_of):
    """Within half a percent of the published figures, which count Read's queries anew in each pass."""
    sampler = {"guidance": "ccfg", "weak_latents": weak}
    shown = inspect(bundle_of("xl", model=XL_256PX, ladder=ladder(range(1, 17)), sampler=sampler)).stdout
    found = re.search(
        rf"^guidance +a ccfg step at 16 and {weak} latents costs (\S+) of cfg's (\S+) GFLOPs, .*: (\S+)% saved$",
        shown,
        re.MULTILINE,
    )
    assert [float(found[1]), float(found[2])] == pytest.approx([costs, 490.9], rel=5e-3)
    assert float(found[3]) == pytest.approx(100 * (1 - costs / 490.9), abs=0.11)


@pytest.mark.parametrize("sampler", [{"guidance": "cfg"}, {"guidance": "none"}])
def test_guidance_that_saves_nothing_is_not_told_of(sampler, bundle_of):
    assert "\nguidance " not in inspect(bundle_of("some", sampler=sampler)).stdout


def test_decoders_are_shown(bundle_of):
    parity = DecoderParity(cases=8, latents="trajectories", psnr_db=91.25, headroom=None)
    decoder = Decoder(
        kind="full",
        layout="AutoencoderKL",
        precision="fp32",
        path="decoders/full.onnx",
        weights="decoders/full.safetensors",
        scale=0.18215,
        shift=0.0,
        factor=8,
        left_wide=0,
        pixel_bytes=1024,
        parity=parity,
        tiling=Tiling(latents=32, overlap=8, psnr_db=45.5),
        source="vae",
        source_sha256="0" * 64,
    )
    bundle = bundle_of("painter")
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    (bundle / "decoders").mkdir()
    for name, content in ((decoder.path, bytes(300_000)), (decoder.weights, bytes(1_200_000))):
        (bundle / name).write_bytes(content)
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["decoders"] = [msgspec.to_builtins(decoder)]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    shown = inspect(bundle).stdout
    assert (
        "full decoder  AutoencoderKL fp32, 1.5 MB: worst 91.2 dB of 8 (trajectories), 45.5 dB in tiles of 32 latents"
    ) in shown
    assert re.search(r"decoders/full.onnx +│ full decoder +│ +│ fp32 +│ 300 ", shown)
    assert re.search(r"decoders/full.safetensors +│ weights +│ +│ +│ 1200 ", shown)


def test_an_elastic_model_beside_the_plain_one(bundle_of):
    """With the published figures of XL at 256 px: a guided step of ELIT at full budget, and of SiT."""
    plain = bundle_of("sit", model=PLAIN_XL_256PX, ladder=ladder([1]), sampler={"guidance": "cfg"}, verification=None)
    elastic = bundle_of("elit", model=XL_256PX, ladder=ladder(range(1, 17)), sampler={"guidance": "ccfg"})
    result = inspect("--compare", plain, elastic, "--json")
    found = json.loads(result.stdout)
    a, b = found["a"], found["b"]
    assert (a["bundle"], b["bundle"]) == ("sit", "elit")
    assert a["full"] == a["least"]
    assert (b["least"]["latents"], b["full"]["latents"]) == (1, 16)
    assert b["full"]["guided_step_flops"] / 1e9 == pytest.approx(363.8, rel=5e-3)
    assert a["weights"] / 1e6 == pytest.approx(675, abs=0.6)
    assert a["parity_db"] is None
    assert b["parity_db"] > 110
    assert "parity_db" not in found["ratios"]
    for name, ratio in found["ratios"].items():
        ours, theirs = a, b
        for part in name.split("."):
            ours, theirs = ours[part], theirs[part]
        assert ratio == pytest.approx(theirs / ours)
    assert {"weights", "disk_bytes", "full.step_flops", "least.guided_step_flops"} <= set(found["ratios"])
    assert "full.pass_ms" not in found["ratios"]


def test_the_comparison_is_a_table_that_a_terminal_has_room_for(bundle_of):
    one, other = bundle_of("one[red]"), bundle_of("other")
    result = inspect("--compare", one, other, columns=80)
    table = " ".join(result.stdout.split())
    for words in (
        "A: one[red] B: other B / A",
        "budgets 1 to 16 latents 1 to 16 latents",
        "precisions fp32 fp32",
        "ms a pass, full not measured not measured",
        "distance, least not evaluated not evaluated",
    ):
        assert words in table
    assert re.search(r"^GFLOPs a step, least +(\S+) +\1 +1\.000 *$", result.stdout, re.MULTILINE)
    assert result.stderr.splitlines() == [
        f"one[red] was not measured on this device: elit-edge bench {one}",
        f"other was not measured on this device: elit-edge bench {other}",
    ]


def test_times_come_from_what_this_device_measured_before(bundle_of, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known, copied, other = bundle_of("known"), bundle_of("copied"), bundle_of("other")
    manifest = json.loads((other / "manifest.json").read_bytes())
    path = manifest["graphs"].pop()["path"]
    (other / path).unlink()
    del manifest["files"][path]
    (other / "manifest.json").write_text(json.dumps(manifest))
    profiles_of(Bundle.open(known).files, runtime="onnxruntime")
    of_same_files = json.loads(inspect("--compare", known, copied, "--json").stdout)
    assert of_same_files["a"]["runtime"] == "onnxruntime fp32"
    assert of_same_files["b"]["least"]["pass_ms"] > 0
    assert of_same_files["ratios"]["full.pass_ms"] == of_same_files["ratios"]["least.pass_ms"] == 1
    table = inspect("--compare", other, known)
    assert re.search(r"^fastest here +not measured +onnxruntime fp32 *$", table.stdout, re.MULTILINE)
    assert re.search(r"^ms a pass, full +not measured +[\d.]+ *$", table.stdout, re.MULTILINE)
    assert table.stderr.splitlines() == [f"other was not measured on this device: elit-edge bench {other}"]


def test_distances_are_of_the_bundles_own_guidance_in_the_most_steps(bundle_of):
    def cell(distance, **more):
        fields = {"steps": 8, "latents": 1, "guidance": "ccfg", "weak_latents": 1, "frechet": None, **more}
        return {**fields, "distance": distance, "low": distance, "high": distance}

    cells = [
        cell(0.5),
        cell(0.25, steps=16),
        cell(0.1, guidance="none", steps=32),
        cell(0.05, weak_latents=2, steps=32),
        cell(0.125, latents=16, steps=16),
    ]
    table = {
        "reference": cell(0, steps=50, latents=16),
        "solver": "euler",
        "scale": 2.5,
        "pictures": 4,
        "seed": 0,
        "features_sha256": None,
        "cells": cells,
    }
    sampler = {"guidance": "ccfg", "weak_latents": 1}
    evaluated = bundle_of("evaluated", quality=table, sampler=sampler)
    found = json.loads(inspect("--compare", evaluated, bundle_of("other", sampler=sampler), "--json").stdout)
    assert found["a"]["least"]["distance"] == 0.25
    assert found["a"]["full"]["distance"] == 0.125
    assert found["b"]["least"]["distance"] is None


def test_the_bundle_to_compare_with_is_checked_too(bundle_of, tmp_path):
    result = CliRunner().invoke(main, ["inspect", "--compare", str(tmp_path / "none.elit"), str(bundle_of("one"))])
    assert result.exit_code == 1
    assert "none.elit" in result.stderr
