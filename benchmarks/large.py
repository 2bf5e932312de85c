"""The published sizes end to end: XL/2 at 256 and 512 pixels and an SD-VAE, with random weights.

python benchmarks/large.py FOLDER [--pixels 256]     # 40 GB of disk; an hour, most of it the parity gate at 512 pixels
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from machine import describe
from memory import COMMAND, peak_bytes
from xl_checkpoint import write_checkpoint, write_vae, xl_config

from elit_edge.budget import flops, guidance_saving, parameters
from elit_edge.bundle_files import BundleFiles
from elit_edge.fit import export_memory_bytes, run_memory_bytes

CHECKED = {256: "1,4,8,16", 512: "1,4,16,64"}
WEAK = {256: 1, 512: 4}
PUBLISHED = {16: 490.9, 12: 421.4, 8: 353.2, 4: 286.1, 2: 253.1}
"""GFLOPs of a pass for two samples at 256 pixels by latents a group. Source: arXiv 2603.12245."""

OPEN = """
import sys, time, numpy as np, elit_edge
begun = time.perf_counter()
bundle = elit_edge.Bundle.open(sys.argv[1])
checked = time.perf_counter()
with bundle.prepare("onnxruntime") as session:
    opened = time.perf_counter()
    model = bundle.manifest.model
    session.velocity(np.zeros((1, model.in_channels, model.image_size, model.image_size)), [0.5], [0], latents=4)
    print(f"digests {checked - begun:.1f} s, opening {opened - checked:.1f} s, "
          f"first velocity {time.perf_counter() - opened:.1f} s", file=sys.stderr)
"""
PACKED = """
import sys, time, numpy as np, onnxruntime as ort
opened, sessions = {}, {}
for disabled in "01":
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", disabled)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    begun = time.perf_counter()
    sessions[disabled] = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    opened[disabled] = time.perf_counter() - begun
shapes = {each.name: each.shape for each in sessions["0"].get_inputs()}
feeds = {name: np.random.default_rng(0).standard_normal([1, *shapes[name][1:]], np.float32)
         for name in ("x", "modulations")}
feeds["latents"] = np.zeros(4, np.int64)
times = {disabled: [] for disabled in sessions}
for _ in range(8):
    for disabled, session in sessions.items():
        begun = time.perf_counter()
        session.run(None, feeds)
        times[disabled].append(time.perf_counter() - begun)
print(*(f"{opened[each]:.1f} {np.median(times[each][1:]):.2f}" for each in sessions))
"""


@dataclass(frozen=True)
class Size:
    """One model on disk."""

    pixels: int
    checkpoint: Path
    bundle: Path
    ema_bytes: int

    def export(self, *options: object) -> tuple[int, float]:
        """Peak memory and seconds of an export in a process of its own."""
        begun = time.perf_counter()
        peak = peak_bytes(COMMAND, "export", self.checkpoint, "-o", self.bundle, "--force", *options)
        return peak, time.perf_counter() - begun

    def files(self) -> BundleFiles:
        return BundleFiles.checked_before(self.bundle)

    def row(self, what: str, value: float, target: str, more: str = "") -> None:
        print(f"| {self.pixels} | {what} | {target} | {value:.4g} | {more} |", flush=True)


def weights_bytes(files: BundleFiles) -> int:
    return sum(files.manifest.files[path].bytes for path in {graph.weights for graph in files.manifest.graphs})


def exports(size: Size, vae: Path) -> None:
    config = xl_config(size.pixels)
    peak, seconds = size.export("--no-verify", "--dtype", "fp16")
    files = size.files()
    total = sum(entry.bytes for entry in files.manifest.files.values())
    more = f"bundle of {total / 1e9:.2f} GB, {seconds:.0f} s"
    size.row("export to fp16, peak / ema", peak / size.ema_bytes, "1.6", more)
    peak, seconds = size.export("--no-verify")
    foreseen = export_memory_bytes(config, check=False) / peak
    more = f"{peak / 1e9:.2f} GB, foreseen / peak {foreseen:.2f}"
    size.row("export, peak / ema", peak / size.ema_bytes, "1.6", more)
    share = f"{size.checkpoint.stat().st_size / 1e9:.1f} GB file"
    size.row("export, minutes", seconds / 60, "6", share)
    files = size.files()
    total = sum(entry.bytes for entry in files.manifest.files.values())
    size.row("bundle / weights", total / weights_bytes(files), "1.03", f"{len(files.manifest.graphs)} graphs")
    decoder = ("--vae", vae) if size.pixels == 512 else ()
    peak, seconds = size.export("--budgets", CHECKED[size.pixels], *decoder)
    found = size.files().manifest.verification
    assert found is not None
    foreseen = export_memory_bytes(config, check=True) / peak
    more = f"{seconds / 60:.1f} min, worst {found.worst.psnr_db:g} dB, foreseen / peak {foreseen:.2f}"
    size.row(f"export, verified at {CHECKED[size.pixels]}, peak / ema", peak / size.ema_bytes, "2.5", more)


def running(size: Size, folder: Path) -> None:
    files = size.files()
    weights = weights_bytes(files)
    timed = subprocess.run([sys.executable, "-c", OPEN, size.bundle], check=True, capture_output=True, text=True)
    peak = peak_bytes(sys.executable, "-c", OPEN, size.bundle)
    foreseen = run_memory_bytes(files.manifest, 1, "onnxruntime") / peak
    more = f"{timed.stderr.strip()}; foreseen / peak {foreseen:.2f}"
    size.row("open, one velocity at J = 4, peak / weights", peak / weights, "1.25", more)
    graph = files.graph_path(files.manifest.graph("velocity", "fp32"))
    ran = subprocess.run([sys.executable, "-c", PACKED, str(graph)], check=True, capture_output=True, text=True)
    packing, packed, opening, mapped = map(float, ran.stdout.split())
    more = f"{packing:g} s to open and {packed:g} s a pass; as mapped {opening:g} and {mapped:g} s"
    size.row("velocity at J = 4, as mapped / packed", mapped / packed, "", more)
    if files.manifest.decoders:
        options = ["--label", "golden retriever", "--steps", 3, "--latents", 16, "--tiles", "--runtime", "onnxruntime"]
        picture = folder / "picture.png"
        command = [COMMAND, "generate", size.bundle, *options, "--decoder-runtime", "onnxruntime", "-o", picture]
        tiling = files.manifest.decoder().tiling
        more = f"tiles of {tiling.latents} latents: {tiling.psnr_db:g} dB of the whole picture"
        size.row("picture with a tiled VAE, peak GB", peak_bytes(*command, "--force") / 1e9, "6", more)


def work() -> None:
    config = xl_config(256)
    print("\n| latents a group | GFLOPs published | of the graphs | ratio |\n| --- | --- | --- | --- |")
    for latents, published in PUBLISHED.items():
        # the published count holds the projection of Read's queries for each group: constants of a compiled graph
        queries = 2 * config.tokens * config.hidden_size**2
        found = 2 * (flops(config, latents).total + queries) / 1e9
        print(f"| {latents} | {published} | {found:.1f} | {found / published:.4f} |")
    for pixels, weak in ((256, 1), (256, 2), (512, 4)):
        model = xl_config(pixels)
        saved = guidance_saving(model, model.latents_per_group, weak)
        print(f"\nCCFG at {pixels} pixels, weak pass at {weak} latents: {saved:.1%} of a guided step saved", end="")
    print()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pixels", type=int, choices=(256, 512), help="one size alone")
    given = parser.parse_args(arguments)
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    vae = folder / "vae"
    if not vae.exists():
        write_vae(vae)
    print(f"{describe()}\n\n| pixels | what | at most | found | |\n| --- | --- | --- | --- | --- |", flush=True)
    for pixels in (given.pixels,) if given.pixels else (256, 512):
        config = xl_config(pixels)
        size = Size(pixels, folder / f"xl{pixels}.pt", folder / f"xl{pixels}.elit", 4 * parameters(config))
        if not size.checkpoint.exists():
            write_checkpoint(size.checkpoint, config)
        exports(size, vae)
        running(size, folder)
    work()


if __name__ == "__main__":
    main()
