"""Core ML packages without a Mac: size, time, what compression leaves, the evaluator against torch.

Usage: python benchmarks/coreml.py      # the sample and a B/2-sized random model: half an hour on two quiet cores
       python benchmarks/coreml.py --sample    # the sample alone: ten minutes
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from functools import partial
from importlib import resources
from pathlib import Path

import msgspec
from export_and_run import SMALL, random_checkpoint
from machine import describe, interleaved, load_average

from elit_edge.bundle import Bundle
from elit_edge.bundle_files import BundleFiles
from elit_edge.export.exporter import export
from elit_edge.export.mil.library import coremltools
from elit_edge.export.mil.reading import MilPackage
from elit_edge.export.to_coreml.checking import check
from elit_edge.export.to_coreml.compiling import BATCHES, compile_packages
from elit_edge.export.to_coreml.evaluated import Packages, evaluated_session
from elit_edge.export.to_coreml.package import Emission, write_conditions, write_velocities
from elit_edge.export.to_coreml.recipe import NEEDS, Recipe
from elit_edge.export.to_coreml.weights import Weights, arrays_of
from elit_edge.export.verify import reference_cases, trajectory_cases
from elit_edge.generation import generate
from elit_edge.manifest import CoreMlFunction
from elit_edge.model.bundle_weights import model_of_bundle
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.parity import psnr_db, relative_l2
from elit_edge.profiling.measuring import peak_bytes
from elit_edge.runtimes.contract import Session
from elit_edge.runtimes.reference.session import ModelSession
from elit_edge.sampling import Array

BASE = msgspec.structs.replace(SMALL, hidden_size=768, num_heads=12)
SPREAD = (1, 4, 16)
REPEATS = 7


class Writer:
    """Packages of one model, written without a bundle around them."""

    def __init__(self, files: BundleFiles, folder: Path) -> None:
        self.manifest, self._folder, self._count = files.manifest, folder, 0
        model = model_of_bundle(files, "fp32")
        self.reference = ModelSession(model, files.manifest)
        self.cases = reference_cases(model, files.manifest, SPREAD)
        self._arrays = arrays_of(model)

    def write(
        self, recipe: Recipe, budgets: tuple[int, ...], batches: tuple[int, ...]
    ) -> tuple[Path, tuple[CoreMlFunction, ...], float]:
        """The folder, its functions, and the seconds that it took."""
        self._count += 1
        place = self._folder / f"{self._count}-{recipe.layout}-{recipe.variant}"
        place.mkdir(parents=True)
        begun = time.perf_counter()
        emission = Emission(self.manifest.model, Weights(self._arrays, recipe.compression, recipe.ios), recipe, {})
        functions = (write_conditions(emission, place), *write_velocities(emission, place, budgets, batches=batches))
        return place, functions, time.perf_counter() - begun


def table(*heads: str) -> None:
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def size(place: Path, what: str = "*") -> int:
    """Bytes of the files of that name in the velocity's package."""
    return sum(path.stat().st_size for path in (place / "velocity.mlpackage").rglob(what) if path.is_file())


def sizes(writer: Writer) -> None:
    """What budgets add to a package, and whether every function points at the same bytes."""
    table("fp16", "one function, MB", "16 functions, MB", "16 / one", "and batch 2, MB", "seconds for 16",
          "weights in one place")  # fmt: skip
    ladder = writer.manifest.budgets
    for layout in ("gpu", "ane"):
        one, _, _ = writer.write(Recipe(layout), ladder[-1:], (1,))
        many, functions, seconds = writer.write(Recipe(layout), ladder, (1,))
        both, _, _ = writer.write(Recipe(layout), ladder, BATCHES)
        package = MilPackage.open(many / "velocity.mlpackage")
        names = [function.name for function in functions if function.latents]
        places = {frozenset(package.blob_offsets(name).values()) for name in names}
        row(layout, f"{size(one) / 1e6:.2f}", f"{size(many) / 1e6:.2f}", f"{size(many) / size(one):.3f}",
            f"{size(both) / 1e6:.2f}", f"{seconds:.1f}", "yes" if len(places) == 1 else "no")  # fmt: skip


def compressed(writer: Writer) -> None:
    """Bytes of the velocity's weights, and how far the numbers move at three budgets, and pictures in the end."""
    table("gpu layout", "weights, MB", "/ fp16", "PSNR, dB", "relative RMS, as stored", "pictures, dB")
    plain = None
    wanted = pictures(writer.reference) if writer.manifest.sample_space == "pixels" else None
    for compression in (None, *(name for name in NEEDS if name != "w8a8")):
        recipe = Recipe("gpu", compression=compression)
        place, functions, _ = writer.write(recipe, SPREAD, BATCHES)
        found = check(writer.manifest, place, functions, recipe.variant, writer.cases)
        blobs = size(place, "weight.bin")
        plain = plain or blobs
        near = "not a model of pictures"
        if wanted is not None:
            session = evaluated_session(writer.manifest, Packages(place), functions, recipe.variant, "stored")
            near = ", ".join(f"{psnr_db(a, b):.0f}" for a, b in zip(pictures(session), wanted, strict=True))
        row(recipe.variant, f"{blobs / 1e6:.2f}", f"{blobs / plain:.3f}", found.psnr_db, f"{found.stored:.1e}", near)


def pictures(session: Session) -> Array:
    """Samples of two classes [2, C, S, S]."""
    return generate(session, [0, 1], steps=12, latents=4, seed=3).samples


def agreement(writer: Writer) -> None:
    """Both layouts in float32 against each other and PyTorch, and the evaluator's time against torch's."""
    sessions = {}
    for layout in ("gpu", "ane"):
        place, functions, _ = writer.write(Recipe(layout, "fp32"), SPREAD, (1,))
        sessions[layout] = evaluated_session(writer.manifest, Packages(place), functions, "fp32", "exact")
    stored = {}
    for layout in ("gpu", "ane"):
        place, functions, _ = writer.write(Recipe(layout), SPREAD, (1,))
        stored[layout] = evaluated_session(writer.manifest, Packages(place), functions, "fp16", "stored")
    table("latents", "gpu against ane, fp32", "gpu against torch", "ane against torch", "gpu exact / torch, time",
          "ane exact / torch", "gpu stored / torch", "ane stored / torch")  # fmt: skip
    for latents in SPREAD:
        cases = trajectory_cases(writer.reference, latents)
        found = {name: each.velocity(cases.x, cases.t, cases.y, latents) for name, each in sessions.items()}
        worst = [
            max(relative_l2(a, b) for a, b in zip(left, right, strict=True))
            for left, right in ((found["gpu"], found["ane"]), (found["gpu"], cases.velocity),
                                (found["ane"], cases.velocity))
        ]  # fmt: skip
        x, modulations = cases.x[:1], cases.modulations[:1]
        runs = {"torch": writer.reference, "gpu": sessions["gpu"], "ane": sessions["ane"],
                "gpu stored": stored["gpu"], "ane stored": stored["ane"]}  # fmt: skip
        times = interleaved(
            {name: partial(run.velocity_from, x, modulations, latents) for name, run in runs.items()}, REPEATS
        )
        ratios = [statistics.median(times[name] / times["torch"]) for name in runs if name != "torch"]
        row(latents, *(f"{value:.1e}" for value in worst), *(f"{ratio:.2f}" for ratio in ratios))


def commands(bundle: Path) -> None:
    """`compile` from end to end, every budget at both batches, held to PyTorch."""
    table(
        "compile", "seconds", "packages, MB", "worst PSNR, dB", "relative RMS exact", "as stored", "float16 head-room"
    )
    for layout, precision, compression in (
        ("gpu", "fp32", None), ("ane", "fp32", None), ("gpu", "fp16", None), ("ane", "fp16", None),
        ("ane", "fp16", "int8"), ("ane", "fp16", "w8a8"), ("gpu", "fp16", "w8a8"),
    ):  # fmt: skip
        recipe = Recipe(layout, precision, compression)
        begun = time.perf_counter()
        manifest = compile_packages(BundleFiles.open(bundle), recipe)
        seconds = time.perf_counter() - begun
        made = next(m for m in manifest.coreml if (m.layout, m.variant) == (layout, recipe.variant))
        total = sum(e.bytes for n, e in manifest.files.items() if n.startswith(f"coreml/{layout}-{recipe.variant}/"))
        found = made.parity
        row(f"{layout} {recipe.variant}", f"{seconds:.0f}", f"{total / 1e6:.1f}", found.psnr_db, f"{found.exact:.1e}",
            f"{found.stored:.1e}", found.headroom or "")  # fmt: skip


def main(arguments: list[str]) -> None:
    print(f"Machine: {describe()}; coremltools {coremltools().__version__}; load before {load_average():.1f}")
    with tempfile.TemporaryDirectory(prefix="coreml-") as name:
        folder = Path(name)
        data = resources.files("elit_edge.data")
        with resources.as_file(data / "sample.safetensors") as sample:
            models = [("sample", sample)]
            if "--sample" not in arguments:
                models.append(("B/2-sized, random", random_checkpoint(BASE, folder)))
            for title, source in models:
                path = folder / f"{source.stem}.elit"
                export(read_checkpoint(source), path, check=False)
                writer = Writer(Bundle.open(path).files, folder / source.stem)
                print(f"\n### {title}")
                sizes(writer)
                compressed(writer)
                agreement(writer)
                if title == "sample":
                    commands(path)
    print(f"\nPeak memory of all of it: {peak_bytes() / 1e9:.1f} GB")


if __name__ == "__main__":
    main(sys.argv[1:])
