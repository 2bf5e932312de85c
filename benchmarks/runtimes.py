"""Every ready runtime against PyTorch: parity at every budget on states of real trajectories, and what opening takes.

python benchmarks/runtimes.py
"""

from __future__ import annotations

import tempfile
import time
from importlib import resources
from pathlib import Path

from machine import describe

from elit_edge.bundle import Bundle
from elit_edge.export.exporter import export
from elit_edge.export.verify import trajectory_cases
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.parity import GATE_DB, psnr_db
from elit_edge.runtimes.contract import Ready
from elit_edge.runtimes.reference.session import ModelSession
from elit_edge.runtimes.registry import all_runtimes, state_of


def main() -> None:
    print(f"{describe()}\n")
    with tempfile.TemporaryDirectory() as folder, resources.as_file(resources.files("elit_edge.data")) as data:
        checkpoint = read_checkpoint(data / "sample.safetensors")
        target = Path(folder, "sample.elit")
        export(checkpoint, target, check=False)
        bundle = Bundle.open(target)
        model = ModelSession(checkpoint.model(), bundle.manifest)
        budgets = bundle.manifest.budgets
        cases = {latents: trajectory_cases(model, latents) for latents in budgets}
        print("| runtime | version | open, ms | worst velocity, dB | at J | gate |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, runtime in all_runtimes().items():
            state = state_of(runtime)
            if not isinstance(state, Ready):
                print(f"| {name} | {state.reason}; {state.remedy} | | | | |")
                continue
            for precision in runtime.precisions(bundle.manifest):
                begun = time.perf_counter()
                with runtime.prepare(bundle.files, precision, None) as session:
                    open_ms = (time.perf_counter() - begun) * 1e3
                    worst, at = min(
                        (psnr_db(session.velocity(c.x, c.t, c.y, latents), c.velocity), latents)
                        for latents, c in cases.items()
                    )
                gate = GATE_DB[precision]
                print(f"| {name} {precision} | {state.version} | {open_ms:.0f} | {worst:.1f} | {at} | {gate:g} |")


if __name__ == "__main__":
    main()
