"""The installed wheel on an ARM machine, held against what an x86 machine computed: `make test-arm64` runs this.

The machine may be emulated: nothing here looks at a time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if "ELIT_EDGE_HANDOVER" not in os.environ or platform.machine() != "aarch64":
    pytest.skip("needs an aarch64 machine and the folder that x86 hands over: make test-arm64", allow_module_level=True)

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from PIL import Image

import elit_edge
from elit_edge import Bundle
from elit_edge.noise import NoiseStream

AGREEMENT = 1e-6
"""Largest difference from x86, of the largest number of x86."""
PIXEL_STEP = 1
"""Rounding to 8 bits may turn either way."""
BUNDLES = ["tiny", "sample"]
ONLY_FOR_EXPORT = ["torch", "onnx", "onnxscript", "onnx_ir", "safetensors"]
QUICK = ["--runtime", "onnxruntime", "--threads", "1"]
"""A runtime that is named is not measured first, which takes long on an emulator."""
TIMEOUT_SECONDS = 900


def disagreement(ours, theirs):
    """The largest difference, of the largest number of `theirs`."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours.astype(np.float64) - theirs).max() / np.abs(theirs).max())


def elit(*words, cwd):
    done = subprocess.run(
        ["elit-edge", *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_this_is_the_installed_wheel():
    assert Path(elit_edge.__file__).is_relative_to(sys.prefix)


def test_nothing_that_only_the_export_needs_is_here():
    assert [name for name in ONLY_FOR_EXPORT if importlib.util.find_spec(name)] == []
    assert importlib.util.find_spec("onnxruntime")


@pytest.mark.parametrize("name", BUNDLES)
def test_the_velocity_agrees_with_x86(handover, name):
    with np.load(handover / f"{name}.npz") as given:
        x, t, y, budgets, theirs = (given[key] for key in ("x", "t", "y", "latents", "velocity"))
    with Bundle.open(handover / f"{name}.elit").prepare("onnxruntime", "fp32", threads=1) as session:
        ours = {int(latents): session.velocity(x, t, y, int(latents)) for latents in budgets}
    found = {latents: disagreement(v, theirs[i]) for i, (latents, v) in enumerate(ours.items())}
    print({latents: f"{value:.1e}" for latents, value in found.items()})
    assert max(found.values()) < AGREEMENT


def test_noise_is_the_noise_of_x86(handover):
    theirs = np.load(handover / "noise.npy")
    ours = NoiseStream(5, 2).draw((3, 32, 32))
    print(f"{(ours != theirs).mean():.1%} of the numbers differ, by {np.abs(ours - theirs).max():.1e} at most")
    np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", BUNDLES)
def test_inspect_reads_the_bundle(handover, tmp_path, name):
    manifest = json.loads(elit("inspect", handover / f"{name}.elit", "--json", cwd=tmp_path))
    assert len(manifest["ladder"]) == 16
    assert manifest["name"] in elit("inspect", handover / f"{name}.elit", cwd=tmp_path)


def test_generate_makes_the_samples_of_x86(handover, tmp_path):
    settings = ["--label", "1", "--latents", "1", "--steps", "2", "--seed", "5", *QUICK]
    elit("generate", handover / "tiny.elit", *settings, "-o", "tiny.npy", cwd=tmp_path)
    with np.load(handover / "tiny_run.npz") as theirs:
        assert disagreement(np.load(tmp_path / "tiny.npy"), theirs["samples"]) < AGREEMENT


def test_generate_draws_the_picture_of_x86(handover, tmp_path):
    settings = ["--label", "1", "--latents", "1", "--steps", "2", "--seed", "5", *QUICK]
    elit("generate", handover / "sample.elit", *settings, "-o", "sample.png", cwd=tmp_path)
    with np.load(handover / "sample_run.npz") as run:
        (image,) = run["images"]
    ours = np.asarray(Image.open(tmp_path / "sample.png").convert("RGB"))
    enlarged = len(ours) // len(image)
    theirs = image.repeat(enlarged, axis=0).repeat(enlarged, axis=1)
    assert np.abs(ours.astype(int) - theirs).max() <= PIXEL_STEP


@pytest.mark.parametrize("role", ["condition", "velocity"])
def test_a_graph_of_ours_optimised_on_x86_is_bound_to_its_runtime_not_to_its_processor(handover, role):
    """Found by trying, ONNX Runtime 1.32: no ELIT graph holds an operator whose optimised form is x86's alone."""
    session = ort.InferenceSession(handover / "optimised" / f"{role}.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()


def test_convolutions_optimised_on_x86_do_not_load(handover):
    """Their weights are laid out in blocks for the operators of x86, which this processor's build does not have."""
    folder = handover / "optimised"
    with pytest.raises(ort_errors.Fail, match=r"com\.microsoft\.nchwc:.* is not a registered function/op"):
        ort.InferenceSession(folder / "convolutions.onnx", providers=["CPUExecutionProvider"])


def test_the_same_convolutions_not_optimised_agree_with_x86(handover):
    folder = handover / "optimised"
    session = ort.InferenceSession(folder / "convolutions_plain.onnx", providers=["CPUExecutionProvider"])
    with np.load(folder / "convolutions.npz") as theirs:
        (y,) = session.run(None, {"x": theirs["x"]})
        assert disagreement(y, theirs["y"]) < AGREEMENT


def test_probe_says_that_this_is_arm(tmp_path):
    found = elit("probe", "--json", cwd=tmp_path)
    assert isinstance(json.loads(found), dict)
    assert "aarch64" in found
    assert "onnxruntime" in found
    assert elit("probe", cwd=tmp_path).strip()


def test_generate_keeps_a_loose_deadline(handover, tmp_path):
    settings = ["--label", "1", "--deadline", "600s", "--threads", "1"]
    elit("generate", handover / "tiny.elit", *settings, "-o", "in_time.npy", cwd=tmp_path)
    assert np.isfinite(np.load(tmp_path / "in_time.npy")).all()


def test_an_impossible_deadline_is_refused(handover, tmp_path):
    command = ["elit-edge", "generate", handover / "tiny.elit", "--label", "1", "--deadline", "1ms", "-o", "no.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "no.npy").exists()


def test_bench_reports(handover, tmp_path):
    report = json.loads(elit("bench", handover / "tiny.elit", "--json", cwd=tmp_path))
    assert "aarch64" in json.dumps(report)
