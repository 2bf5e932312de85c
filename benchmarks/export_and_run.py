"""The figures of exporting a bundle and running it on a CPU: parity, speed, disk, memory, start.

Usage: python benchmarks/export_and_run.py [--quick]      # prints the tables of docs/benchmarks.md; a quiet machine
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from machine import describe, interleaved, load_average
from safetensors.torch import save_file

import elit_edge
from elit_edge.budget import flops
from elit_edge.bundle_files import BundleFiles
from elit_edge.export.exporter import export
from elit_edge.model.checkpoint import config_json, read_checkpoint
from elit_edge.model.published_keys import to_published
from elit_edge.model.training import initialise
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig, read_fields
from elit_edge.runtimes.onnxruntime_.session import open_graph

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
THREADS = 2
BUDGETS = tuple(range(1, 17))
GEMM_SIDE = 1024
COLUMNS = (
    "J",
    "eager torch",
    "ORT, one graph",
    "ORT, a step",
    "torch / one graph",
    "one graph / step",
    "GEMM share",
    "time J/P",
    "FLOPs J/P",
)

SMALL = ModelConfig(
    architecture="elit-sit",
    image_size=32,
    in_channels=4,
    patch_size=2,
    hidden_size=384,
    num_heads=6,
    mlp_ratio=4.0,
    head_depth=2,
    core_depth=8,
    tail_depth=2,
    group_size=4,
    num_classes=1000,
)
"""S/2-sized, with a core that the budget can shrink."""

SAMPLER_CASES: dict[str, dict[str, object]] = {
    "sampler_euler10_b1": {"steps": 10, "guidance": "none"},
    "sampler_euler10_b025": {"steps": 10, "latents": 4, "guidance": "none"},
    "sampler_heun6_b05": {"steps": 6, "latents": 8, "solver": "heun", "guidance": "none"},
    "sampler_euler10_cfg3_b1": {"steps": 10, "guidance": "cfg", "scale": 3.0},
    "sampler_euler10_ccfg3_b1_u00625": {"steps": 10, "guidance": "ccfg", "scale": 3.0},
    "sampler_euler10_autog3_b1_u00625": {"steps": 10, "guidance": "autoguidance", "scale": 3.0},
    "sampler_euler10_ccfg3_interval_0.3_0.8": {"steps": 10, "guidance": "ccfg", "scale": 3.0, "interval": (0.3, 0.8)},
}

START = """
import sys, time
begun = time.perf_counter()
import numpy as np, elit_edge
bundle = elit_edge.Bundle.open(sys.argv[1])
with bundle.prepare("onnxruntime") as session:
    side, channels = bundle.manifest.model.image_size, bundle.manifest.model.in_channels
    session.velocity(np.zeros((1, channels, side, side)), [0.5], [0], latents=4)
    print(time.perf_counter() - begun)
"""

MEMORY = """
import sys, numpy as np, elit_edge
bundle = elit_edge.Bundle.open(sys.argv[1])
with bundle.prepare("onnxruntime", threads=2) as session:
    model = bundle.manifest.model
    x = np.zeros((1, model.in_channels, model.image_size, model.image_size))
    for latents in map(int, sys.argv[2].split(",")):
        session.velocity(x, [0.5], [0], latents=latents)
    print(next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Pss:")) / 1024)
"""


def in_fresh_process(code: str, *arguments: str) -> float:
    return float(subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True).stdout)


def random_checkpoint(config: ModelConfig, folder: Path) -> Path:
    """A model with random weights, none of them zero, as a file."""
    model = DiffusionTransformer(config)
    initialise(model, 0)
    generator = torch.Generator().manual_seed(1)
    state = {n: v + 0.02 * torch.randn(v.shape, generator=generator) for n, v in model.state_dict().items()}
    path = folder / "small.safetensors"
    save_file({n: v.contiguous() for n, v in to_published(state, config)}, path, config_json(config))
    return path


def parity(folder: Path) -> None:
    """Every graph at every budget, and every sampler, against the authors' numbers."""
    with np.load(FIXTURES / "official_tiny_a_expected.npz") as data:
        expected = dict(data)
    checkpoint = read_checkpoint(FIXTURES / "official_tiny_a.pt", read_fields(FIXTURES / "official_tiny_a.json"))
    export(checkpoint, folder / "tiny.elit")
    bundle = elit_edge.Bundle.open(folder / "tiny.elit")
    feeds = {"x": expected["x"], "t": expected["t"], "y": expected["y"]}
    condition = open_graph(bundle.files, bundle.manifest.graph("condition", "fp32"), THREADS)
    feeds["modulations"] = condition.run(None, {"t": feeds["t"], "y": feeds["y"]})[0]
    worst: dict[str, float] = {}
    for graph in bundle.manifest.graphs:
        if graph.role == "condition":
            continue
        session = open_graph(bundle.files, graph, THREADS)
        names = [value.name for value in session.get_inputs()]
        for latents in [graph.latents] if graph.latents else bundle.manifest.budgets:
            given = {**feeds, "latents": np.zeros(latents, np.int64)}
            batch = 1 if graph.latents else len(feeds["x"])
            rows = [
                {n: given[n] if n == "latents" else given[n][i : i + batch] for n in names}
                for i in range(0, len(feeds["x"]), batch)
            ]
            found = np.concatenate([session.run(None, row)[0] for row in rows])
            kind = f"{graph.role}{' of one budget' if graph.latents else ''}"
            worst[kind] = max(worst.get(kind, 0.0), float(np.abs(found - expected[f"v_{latents:02d}"]).max()))
    print("\nVelocity against the authors' code, all budgets, max abs error: ", end="")
    print("; ".join(f"{kind} {error:.1e}" for kind, error in worst.items()))
    with bundle.prepare("onnxruntime", threads=THREADS) as session:
        labels = [int(label) for label in expected["sampler_y"]]
        errors = {}
        for name, given in SAMPLER_CASES.items():
            made = elit_edge.generate(session, labels, noise=expected["sampler_x"], **given)  # type: ignore[arg-type]
            errors[name] = float(np.abs(made.samples - expected[name]).max())
    print(f"Samplers against the authors' code, worst of {len(errors)}: {max(errors.values()):.1e}")


def speed(name: str, files: BundleFiles, model: DiffusionTransformer, repeats: int) -> None:
    """One table: times at each budget, and the ratios that matter."""
    config, manifest = model.config, files.manifest
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, config.in_channels, config.image_size, config.image_size)).astype(np.float32)
    t, y = np.array([0.5], np.float32), np.array([1], np.int64)
    tx, tt, ty = torch.from_numpy(x), torch.from_numpy(t), torch.from_numpy(y)
    condition, velocity, whole = (
        open_graph(files, manifest.graph(role, "fp32"), THREADS) for role in ("condition", "velocity", "model")
    )
    modulations = condition.run(None, {"t": t, "y": y})[0]
    square = torch.randn(GEMM_SIDE, GEMM_SIDE)
    calls: dict[str, Callable[[], object]] = {"gemm": lambda: square @ square}
    for j in BUDGETS:
        kept = np.zeros(j, np.int64)
        calls[f"eager {j}"] = lambda j=j: model(tx, tt, ty, j)
        calls[f"whole {j}"] = lambda kept=kept: whole.run(None, {"x": x, "t": t, "y": y, "latents": kept})
        calls[f"step {j}"] = lambda kept=kept: velocity.run(None, {"x": x, "modulations": modulations, "latents": kept})
    with torch.inference_mode():
        times = interleaved(calls, repeats)
    ms = {key: float(np.median(values)) for key, values in times.items()}
    rate = 2 * GEMM_SIDE**3 / ms["gemm"] / 1e6
    full = flops(config, config.latents_per_group).velocity
    print(f"\n### {name}: batch 1, {THREADS} threads, fp32; medians of {repeats} interleaved runs, ms (least)\n")
    print(f"A {GEMM_SIDE}-cube fp32 product in the same run: {ms['gemm']:.1f} ms, {rate:.0f} GFLOP/s.\n")
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    for j in BUDGETS:
        eager, one, step = ms[f"eager {j}"], ms[f"whole {j}"], ms[f"step {j}"]
        work = flops(config, j).velocity
        cells = (
            f"{key:.2f} ({times[f'{label} {j}'].min():.2f})"
            for label, key in (("eager", eager), ("whole", one), ("step", step))
        )
        share = work / step / 1e6 / rate
        ratios = (
            f"{eager / one:.2f}",
            f"{one / step:.2f}",
            f"{share:.0%}",
            f"{step / ms[f'step {BUDGETS[-1]}']:.2f}",
            f"{work / full:.2f}",
        )
        print(f"| {j} | " + " | ".join((*cells, *ratios)) + " |")


def size_and_start(name: str, folder: Path, repeats: int) -> None:
    manifest = elit_edge.Bundle.open(folder).manifest
    fixed = [manifest.files[g.path].bytes for g in manifest.graphs if g.latents is not None]
    weights = manifest.files[manifest.graphs[0].weights].bytes
    whole = ",".join(map(str, manifest.budgets))
    one = np.median([in_fresh_process(MEMORY, str(folder), str(manifest.latents_per_group)) for _ in range(repeats)])
    every = np.median([in_fresh_process(MEMORY, str(folder), whole) for _ in range(repeats)])
    start = np.median([in_fresh_process(START, str(folder)) for _ in range(repeats)])
    print(
        f"\n{name}: disk of all {len(fixed)} fixed budgets / one: {(sum(fixed) + weights) / (max(fixed) + weights):.3f}"
    )
    print(f"{name}: memory (PSS) with all budgets / one: {every:.0f} / {one:.0f} MB = {every / one:.3f}")
    print(f"{name}: import, open, first velocity in a fresh process: {start:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that it runs")
    repeats = 3 if parser.parse_args().quick else 7
    torch.set_num_threads(THREADS)
    print(f"Machine: {describe()}; load before the start {load_average():.1f}")
    with tempfile.TemporaryDirectory() as name, resources.as_file(resources.files("elit_edge.data")) as data:
        folder = Path(name)
        parity(folder)
        for title, source in (("sample", data / "sample.safetensors"), ("S/2-sized", random_checkpoint(SMALL, folder))):
            checkpoint = read_checkpoint(source)
            target = folder / f"{source.stem}.elit"
            begun = time.perf_counter()
            manifest = export(checkpoint, target).manifest
            print(f"\n{title}: export and verification {time.perf_counter() - begun:.1f} s", end="")
            print(f", {manifest.verification.worst.psnr_db if manifest.verification else 0:g} dB at worst")
            speed(title, BundleFiles.open(target), checkpoint.model(), repeats)
            size_and_start(title, target, 3)


if __name__ == "__main__":
    main()
