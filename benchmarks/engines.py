"""Engines of TensorRT for RTX, built without a GPU: size, build time, what a further profile or GPU adds.

Usage: python benchmarks/engines.py      # the sample and an S/2-sized random model: six minutes on two quiet cores
"""

from __future__ import annotations

import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

import msgspec
from export_and_run import SMALL, random_checkpoint
from machine import describe, load_average

from elit_edge.bundle import Bundle
from elit_edge.bundle_files import BundleFiles
from elit_edge.calibration.calibrating import calibrate
from elit_edge.export.exporter import export
from elit_edge.manifest import Graph, Precision, Range
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.profiling.measuring import peak_bytes
from elit_edge.runtimes.tensorrt_.building import build_engine
from elit_edge.runtimes.tensorrt_.compiling import AHEAD
from elit_edge.runtimes.tensorrt_.library import TENSORRT_RTX
from elit_edge.runtimes.tensorrt_.profiles import Form, engine_profiles

ONE = Range(least=1, typical=1, most=1)
FEW = (1, 4, 8, 16)
"""Budgets of the engine with fixed profiles."""


def built(
    files: BundleFiles, graph: Graph, form: Form, capabilities: tuple[str, ...], batch: Range | None = None
) -> tuple[float, float, int]:
    """Size in MB, seconds and kernels, which stand in it as text; with `batch`, of an engine for that one."""
    profiles = engine_profiles(files.manifest, graph, form)
    if batch is not None:
        profiles = tuple(msgspec.structs.replace(profile, batch=batch) for profile in profiles)
    begun = time.perf_counter()
    engine = build_engine(TENSORRT_RTX, files, graph, profiles, compute_capabilities=capabilities)
    return engine.nbytes / 1e6, time.perf_counter() - begun, bytes(engine).count(b"__global__")


def measure(name: str, files: BundleFiles) -> None:
    """One model in each precision."""
    few = tuple(rung for rung in files.manifest.ladder if rung.latents in FEW)
    several = BundleFiles(files.folder, msgspec.structs.replace(files.manifest, ladder=few))
    single = BundleFiles(files.folder, msgspec.structs.replace(files.manifest, ladder=few[-1:]))
    print(f"\n### {name}\n")
    heads = ("", "batch", "weights, MB", "both engines, MB", "engines / weights", "build, s", "kernels",
             "one more fixed profile, MB", "for one GPU / for five, MB")  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for precision in files.manifest.precisions:
        velocity, condition = (files.manifest.graph(role, precision) for role in ("velocity", "condition"))
        weights = files.manifest.files[velocity.weights].bytes / 1e6
        head, head_seconds, _ = built(files, condition, "range", AHEAD)
        for words, batch in (("1 to 8", None), ("1", ONE)):
            whole, seconds, kernels = built(files, velocity, "range", AHEAD, batch)
            for_one, _, _ = built(files, velocity, "range", ("8.6",), batch)
            profiles, _, _ = built(several, velocity, "per-budget", ("8.6",), batch)
            first, _, _ = built(single, velocity, "per-budget", ("8.6",), batch)
            more = (profiles - first) / (len(few) - 1)
            cells = (precision, words, f"{weights:.1f}", f"{whole + head:.1f}", f"{(whole + head) / weights:.3f}",
                     f"{seconds + head_seconds:.1f}", kernels, f"{more:.1f}",
                     f"{for_one:.1f} / {whole:.1f}")  # fmt: skip
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    size, seconds, _ = built(files, files.manifest.graph("velocity", "fp16"), "per-budget", ("8.6",))
    print(f"\nA fixed profile for each of {len(files.manifest.ladder)} budgets, fp16: {size:.1f} MB in {seconds:.1f} s")


def main() -> None:
    print(f"Machine: {describe()}; TensorRT for RTX {TENSORRT_RTX.version}; load before the start {load_average():.1f}")
    with tempfile.TemporaryDirectory(prefix="engines-") as name:
        folder = Path(name)
        data = resources.files("elit_edge.data")
        with resources.as_file(data / "sample.safetensors") as sample:
            models: tuple[tuple[str, Path, tuple[Precision, ...]], ...] = (
                ("sample", sample, ("fp16", "int8")),
                ("S/2-sized, random", random_checkpoint(SMALL, folder), ("fp16",)),
            )
            for title, source, schemes in models:
                path = folder / "fp32.elit"
                export(read_checkpoint(source), path, check=False, force=path.exists())
                for scheme in schemes:
                    made = folder / f"{scheme}.elit"
                    calibrate(Bundle.open(path), scheme, made, pictures=0, accept_anyway=True, force=made.exists())
                    path = made
                measure(title, Bundle.open(path).files)
    print(f"\nPeak memory of all of it: {peak_bytes() / 1e9:.1f} GB")


if __name__ == "__main__":
    sys.exit(main())
