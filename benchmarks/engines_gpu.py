"""Engines on an NVIDIA GPU against torch.compile on the same GPU: every budget, batch 1 and 8, S/2- and XL-sized.

Usage: python benchmarks/engines_gpu.py                # an NVIDIA GPU, TensorRT or TensorRT for RTX, torch with CUDA
       python benchmarks/engines_gpu.py --rehearse     # the same code on a CPU: ONNX Runtime against eager torch, tiny

Both sides get their inputs from the host and give their outputs back to it, as a sampler uses them. Each budget is
timed in turn with the others, so that clocks and heat drift for both.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from calibration import XL
from export_and_run import SMALL, random_checkpoint
from machine import describe, load_average

from elit_edge.budget import flops
from elit_edge.bundle import Bundle
from elit_edge.calibration.calibrating import calibrate
from elit_edge.export.exporter import export
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.model_config import ModelConfig
from elit_edge.parity import psnr_db
from elit_edge.runtimes.contract import Ready, Session
from elit_edge.runtimes.registry import all_runtimes, choose
from elit_edge.runtimes.tensorrt_.compiling import compile_bundle
from elit_edge.runtimes.tensorrt_.execution import OpenEngine
from elit_edge.runtimes.tensorrt_.library import LIBRARIES

TURNS = 20


def median_ms(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) * 1e3)
    return float(np.median(taken))


def product_tflops(device: str, dtype: torch.dtype) -> float:
    """The rate of a large matrix product: what a pass could reach at most."""
    size = 4096 if device == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def work() -> None:
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()

    work()
    return float(2 * size**3 / median_ms(work) / 1e9)


class TorchSide:
    """The torch model, compiled, with the modulations known, as a session has them."""

    def __init__(self, path: Path, device: str, dtype: torch.dtype) -> None:
        model = read_checkpoint(path).model().to(device, dtype).eval()
        self._device, self._dtype = device, dtype
        self.condition = model.condition
        self.velocity = torch.compile(model.velocity, mode="reduce-overhead") if device == "cuda" else model.velocity

    def run(self, x: np.ndarray, t: np.ndarray, y: np.ndarray, latents: int) -> Callable[[], np.ndarray]:
        with torch.inference_mode():
            times, labels = torch.from_numpy(t), torch.from_numpy(y)
            given = self.condition(times.to(self._device, self._dtype), labels.to(self._device))

        @torch.inference_mode()
        def work() -> np.ndarray:
            state = torch.from_numpy(x).to(self._device, self._dtype)
            found: np.ndarray = self.velocity(state, given, latents).float().cpu().numpy()
            return found

        return work


def compare(name: str, session: Session, exact: Session, sides: dict[str, TorchSide], peak_tflops: float) -> None:
    model = session.manifest.model
    random = np.random.default_rng(0)
    print(f"\n### {name}: {session.runtime} {session.precision}; medians of {TURNS} turns, ms\n")
    heads = ("batch", "J", session.runtime, "without CUDA graph", *(f"torch {side}" for side in sides), "times as fast",
             "share of the product's rate", "PSNR to float32, dB")  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for batch in (1, 8):
        x = random.standard_normal((batch, model.in_channels, model.image_size, model.image_size), np.float32)
        t, y = np.full(batch, 0.5, np.float32), random.integers(0, model.num_classes, batch)
        modulations = session.condition(t, y)
        for latents in session.manifest.budgets:
            works = [side.run(x, t, y, latents) for side in sides.values()]
            for work in works:  # compiles
                work()
            session.velocity_from(x, modulations, latents)  # captures
            own = median_ms(lambda: session.velocity_from(x, modulations, latents))  # noqa: B023 - called at once
            others = [median_ms(work) for work in works]
            plain = uncaptured_ms(session, x, modulations, latents)
            share = batch * flops(model, latents).velocity / own / 1e9 / peak_tflops
            near = psnr_db(session.velocity(x, t, y, latents), exact.velocity(x, t, y, latents))
            ratio = min(others) / own
            cells = (batch, latents, f"{own:.2f}", "-" if plain is None else f"{plain:.2f}",
                     *(f"{other:.2f}" for other in others), f"{ratio:.2f}", f"{share:.0%}", f"{near:.1f}")  # fmt: skip
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def uncaptured_ms(session: Session, x: np.ndarray, modulations: np.ndarray, latents: int) -> float | None:
    """The same passes enqueued kernel by kernel, where this session captures them itself."""
    engine = getattr(session, "_engines", {}).get("velocity")
    if not isinstance(engine, OpenEngine) or not engine.captures:
        return None
    engine.captures = False
    try:
        return median_ms(lambda: session.velocity_from(x, modulations, latents))
    finally:
        engine.captures = True


def main() -> None:
    rehearse = "--rehearse" in sys.argv
    device = "cpu" if rehearse else "cuda"
    if not rehearse and not torch.cuda.is_available():
        sys.exit("this benchmark needs an NVIDIA GPU and a torch with CUDA; --rehearse runs its code on a CPU")
    ready = ["onnxruntime"] if rehearse else [
        name for name in LIBRARIES if isinstance(all_runtimes()[name].check(), Ready)
    ]  # fmt: skip
    print(f"Machine: {describe()}; {torch.cuda.get_device_name() if not rehearse else 'rehearsal on a CPU'}; "
          f"load before the start {load_average():.1f}")  # fmt: skip
    models: dict[str, ModelConfig] = {"S/2-sized, random": SMALL} | ({} if rehearse else {"XL/2-sized, random": XL})
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16} if not rehearse else {"fp32": torch.float32}
    peak = product_tflops(device, next(iter(dtypes.values())))
    for title, config in models.items():
        with tempfile.TemporaryDirectory(prefix="engines-") as name:
            folder = Path(name)
            checkpoint = random_checkpoint(config, folder)
            export(read_checkpoint(checkpoint), folder / "fp32.elit", check=False)
            exact = Bundle.open(folder / "fp32.elit").prepare("onnxruntime")
            bundle = Bundle.open(folder / "fp32.elit")
            if not rehearse:
                calibrate(bundle, "fp16", folder / "half.elit", pictures=0, accept_anyway=True)
                bundle = Bundle.open(folder / "half.elit")
            sides = {each: TorchSide(checkpoint, device, dtype) for each, dtype in dtypes.items()}
            for runtime in ready:
                if not rehearse:
                    capability = ".".join(map(str, torch.cuda.get_device_capability()))
                    ahead = (capability,) if LIBRARIES[runtime].ahead_of_time else ()
                    compile_bundle(bundle.files, LIBRARIES[runtime], "fp16", compute_capabilities=ahead)
                    bundle = Bundle.open(bundle.files.folder)
                precision = "fp32" if rehearse else "fp16"
                with choose(runtime).prepare(bundle.files, precision, None) as session:
                    compare(title, session, exact, sides, peak)


if __name__ == "__main__":
    main()
