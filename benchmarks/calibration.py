"""Every scheme on the sample model, proven; and int8 on a random model of XL size.

Usage: python benchmarks/calibration.py        # the sample: a quarter of an hour on two quiet cores
       python benchmarks/calibration.py --xl   # XL/2 with random weights: an hour, 15 GB of disk
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

import torch
from machine import describe, load_average
from safetensors.torch import save_file

from elit_edge.bundle import Bundle
from elit_edge.calibration.calibrating import SCHEMES, Calibrated, calibrate
from elit_edge.calibration.collecting import collect
from elit_edge.calibration.proof.gates import speedups
from elit_edge.calibration.set_file import save_set
from elit_edge.calibration.states import default_recipe
from elit_edge.export.exporter import export
from elit_edge.model.checkpoint import config_json, read_checkpoint
from elit_edge.model.published_keys import to_published
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig
from elit_edge.profiling.measuring import peak_bytes
from elit_edge.verdict import Interval

DATA = resources.files("elit_edge.data")
PICTURES = {"int8": 160, "w4": 64}
"""Others are proven by velocities, speed and size alone."""
XL = ModelConfig(
    architecture="elit-sit",
    image_size=32,
    in_channels=4,
    patch_size=2,
    hidden_size=1152,
    num_heads=16,
    mlp_ratio=4.0,
    head_depth=8,
    core_depth=16,
    tail_depth=4,
    group_size=4,
    num_classes=1000,
)


def main() -> None:
    print(f"Machine: {describe()}; load before the start {load_average():.1f}\n")
    with tempfile.TemporaryDirectory(prefix="calibration-") as name:
        if "--xl" in sys.argv:
            xl(Path(name))
        else:
            sample(Path(name))


def sample(folder: Path) -> None:
    with resources.as_file(DATA / "sample.safetensors") as path:
        export(read_checkpoint(path), folder / "sample.elit")
    bundle = Bundle.open(folder / "sample.elit")
    for scheme in SCHEMES:
        begun = time.perf_counter()
        pictures = PICTURES.get(scheme, 0)
        with resources.as_file(DATA / "sample-features.onnx") as features:
            made = calibrate(
                bundle,
                scheme,
                folder / f"{scheme}.elit",
                features=features if pictures else None,
                pictures=pictures,
                states=folder / "set.npz",
                accept_anyway=True,
            )
        show(made, time.perf_counter() - begun)


def show(made: Calibrated, seconds: float) -> None:
    verdict = made.calibration.verdict
    print(f"### {made.calibration.precision}: {seconds:.0f} s, {verdict.pictures} pictures of {verdict.steps} steps\n")
    print("| J | PSNR, dB | departure | loss | Frechet distance |\n| --- | --- | --- | --- | --- |")
    for each in verdict.budgets:
        cells = (each.departure, each.loss, each.frechet)
        print(f"| {each.latents} | {each.psnr_db:.1f} | {' | '.join(map(words, cells))} |")
    print(f"\nsize over float32's: {verdict.size_ratio:.3f}; left out by the search: {left(made) or 'nothing'}")
    print("\n| runtime | J | float32, ms | own, ms | times as fast |\n| --- | --- | --- | --- | --- |")
    for speed in verdict.speeds:
        own = "–" if speed.own_ms is None else f"{speed.own_ms:.2f}"
        ratio = "–" if speed.ratio is None else f"{speed.ratio:.2f}"
        print(f"| {speed.runtime} | {speed.latents} | {speed.fp32_ms:.2f} | {own} | {ratio} |")
    best = ", ".join(f"{ratio:.2f} at J = {latents}" for latents, ratio in speedups(verdict).items())
    print(f"\nbest runtime for each: {best}")
    print(f"verdict: {'; '.join(verdict.faults) or 'accepted'}\n", flush=True)


def left(made: Calibrated) -> str:
    """Products of the velocity that the search left at eight bits and in float32."""
    conditions = ("time.", "final_modulation")
    return ", ".join(
        layer.name
        for layer in made.record.layers
        if layer.treatment == "w8" != made.calibration.precision
        and not layer.name.startswith(conditions)
        and not layer.name.endswith(".modulation")
    )


def words(found: Interval | None) -> str:
    return "–" if found is None else f"{found.value:+.1%} ({found.low:+.1%} to {found.high:+.1%})"


def xl(folder: Path) -> None:
    """Export and calibration each in a process of its own, whose peak is its own."""
    for stage in ("make_bundle", "take_set", "calibrate_xl"):
        begun = time.perf_counter()
        code = f"import calibration; from pathlib import Path; calibration.{stage}(Path({str(folder)!r}))"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
        print(f"{stage}: {time.perf_counter() - begun:.0f} s\n", flush=True)


def make_bundle(folder: Path) -> None:
    """Weights of trained size, random, under their published names."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DiffusionTransformer(XL).state_dict().items()}
    state = {
        name: torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)
        for name, shape in shapes.items()
    }
    path = folder / "xl.safetensors"
    save_file({name: value.contiguous() for name, value in to_published(state, XL)}, path, config_json(XL))
    del state
    export(read_checkpoint(path), folder / "xl.elit", check=False)
    path.unlink()


def take_set(folder: Path) -> None:
    """A small one: the least and the full budget, three times, one class and the null class."""
    bundle = Bundle.open(folder / "xl.elit")
    recipe = default_recipe(bundle.files, budgets=bundle.manifest.budgets[:: len(bundle.manifest.budgets) - 1],
                            steps=3, classes=1)  # fmt: skip
    with bundle.prepare("onnxruntime", "fp32") as session:
        save_set(folder / "set.npz", collect(session, recipe, lambda *_: None, print), replace=False)


def calibrate_xl(folder: Path) -> None:
    bundle, begun, seen = Bundle.open(folder / "xl.elit"), time.perf_counter(), [""]

    def report(stage: str, _share: float) -> None:
        if stage != seen[-1]:
            seen.append(stage)
            print(f"{time.perf_counter() - begun:6.0f} s, peak {(peak_bytes() or 0) / 1e9:.1f} GB: {stage}", flush=True)

    made = calibrate(
        bundle, "int8", folder / "int8.elit", states=folder / "set.npz", pictures=0, accept_anyway=True, report=report
    )
    show(made, time.perf_counter() - begun)
    print(f"peak memory of the process {(peak_bytes() or 0) / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
