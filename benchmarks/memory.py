"""Peak memory of exporting and generating, in processes of their own, against what elit_edge.fit foresees.

python benchmarks/memory.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

from export_and_run import SMALL, random_checkpoint
from machine import describe

from elit_edge.bundle import Bundle
from elit_edge.fit import export_memory_bytes, run_memory_bytes
from elit_edge.model.checkpoint import read_checkpoint

COMMAND = Path(sys.executable).with_name("elit-edge")
PEAK = """
import resource, subprocess, sys
ran = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 if ran.returncode == 0 else sys.exit(ran.stderr))
"""


def peak_bytes(*command: object) -> int:
    words = [str(word) for word in command]
    return int(subprocess.run([sys.executable, "-c", PEAK, *words], check=True, capture_output=True).stdout)


def row(what: str, measured: int, foreseen: int) -> None:
    print(f"| {what} | {measured / 1e6:.0f} | {foreseen / 1e6:.0f} | {foreseen / measured:.2f} |", flush=True)


def main() -> None:
    print(f"{describe()}\n\n| what | peak MB | foreseen MB | foreseen / peak |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, resources.as_file(resources.files("elit_edge.data")) as data:
        bundle = Path(folder, "x.elit")
        sources = {"sample": data / "sample.safetensors", "S/2-sized": random_checkpoint(SMALL, Path(folder))}
        for name, source in sources.items():
            config = read_checkpoint(source).config
            for options, check in ((["--no-verify"], False), ([], True)):
                measured = peak_bytes(COMMAND, "export", source, "-o", bundle, "--force", *options)
                what = "export and verify" if check else "export"
                row(f"{name}: {what}", measured, export_memory_bytes(config, check=check))
            manifest = Bundle.open(bundle).manifest
            for runtime in ("onnxruntime", "openvino"):
                for count in (1, 8):
                    options = ["--count", count, "--steps", 2, "--runtime", runtime, "--force"]
                    command = [COMMAND, "generate", bundle, "--label", 0, "-o", Path(folder, "x.npy"), *options]
                    row(
                        f"{name}: {runtime}, {count} at once",
                        peak_bytes(*command),
                        run_memory_bytes(manifest, count, runtime),
                    )


if __name__ == "__main__":
    main()
