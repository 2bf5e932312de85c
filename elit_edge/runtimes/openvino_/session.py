"""The sessions of OpenVINO. It never sends telemetry: see `_without_telemetry`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.manifest import Decoder, Role
from elit_edge.runtimes.contract import DecoderSession, FloatArray, IntArray, Session

TELEMETRY = "openvino_telemetry"


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """While OpenVINO is imported: it would send an event and leave files in the home folder, unless this is missing."""
    kept = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # how Python marks a module that must not be found
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]
        if kept is not None:
            sys.modules[TELEMETRY] = kept


with _without_telemetry():
    import openvino as ov


@cache
def _core() -> Any:
    return ov.Core()


def cpu_capabilities() -> list[str]:
    """What OpenVINO says that this CPU computes fast, such as "FP32", "BF16", "INT8"."""
    capabilities: list[str] = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return capabilities


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """OpenVINO's errors share no narrower class; the reason is their last line, after places in its source."""
    try:
        yield
    except Exception as error:
        reason = ([line for line in str(error).splitlines() if line.strip()] or [repr(error)])[-1].strip()
        raise BundleError(f"OpenVINO {ov.__version__} refuses {path}: {reason}; export the bundle again") from error


class _Graph:
    """One compiled graph of any batch and budget."""

    def __init__(self, path: Path, precision: str, threads: int | None) -> None:
        self._path = path
        # said always: by itself OpenVINO takes bf16 where the CPU has it
        hint = ov.Type.bf16 if precision == "bf16" and "BF16" in cpu_capabilities() else ov.Type.f32
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # a thread tied to a core waits where another process has taken that core
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        with _refusals(path):
            compiled = _core().compile_model(path, "CPU", config)
            self._request = compiled.create_infer_request()
        found = compiled.get_property("INFERENCE_PRECISION_HINT")
        if found != hint:
            raise BundleError(
                f"OpenVINO {ov.__version__} was asked for {precision} and computes in {found.to_string()} on this CPU; "
                "choose fp32"
            )

    def run(self, feeds: dict[str, npt.NDArray[Any]]) -> FloatArray:
        """Feeds are copied in and the result is copied out: nothing of the caller's is held between calls."""
        with _refusals(self._path):
            output: FloatArray = self._request.infer(feeds)[0]
        return output


class OpenVinoSession(Session):
    """One graph a role, of any budget and batch.

    Shapes stay free: a graph fixed to one budget and batch saved 0.6 to 3 ms of 6 to 24 a call, but half a second and
    another copy of the weights for each would pay only after hundreds of calls (6 million weights, one x86 core).
    """

    def __init__(self, files: BundleFiles, precision: str, threads: int | None) -> None:
        super().__init__(files.manifest, "openvino", precision)
        self._condition: _Graph | None = self._open(files, "condition", threads)
        self._velocity: _Graph | None = self._open(files, "velocity", threads)
        self._settle()

    def _open(self, files: BundleFiles, role: Role, threads: int | None) -> _Graph:
        graphs = self.precision if self.precision in self.manifest.precisions else "fp32"
        return _Graph(files.graph_path(self.manifest.graph(role, graphs)), self.precision, threads)

    def _settle(self) -> None:
        """One velocity at the full budget. An attention whose first call has a single key computes every later call
        wrong (OpenVINO 2026.4, x86): at the least budget, of a model whose Write reads kept latents alone, for one."""
        model = self.manifest.model
        modulations = np.zeros((1, model.modulation_size), np.float32)
        x = np.zeros((1, model.in_channels, model.image_size, model.image_size), np.float32)
        self.velocity_from(x, modulations, model.latents_per_group)

    def condition(self, t: FloatArray, y: IntArray) -> FloatArray:
        assert self._condition is not None, "the session is closed"
        return self._condition.run({"t": t, "y": y})

    def velocity_from(self, x: FloatArray, modulations: FloatArray, latents: int) -> FloatArray:
        assert self._velocity is not None, "the session is closed"
        feeds: dict[str, npt.NDArray[Any]] = {"x": x, "modulations": modulations}
        if self.manifest.model.is_elastic:
            feeds["latents"] = np.zeros(latents, np.int64)
        return self._velocity.run(feeds)

    def close(self) -> None:
        self._condition = self._velocity = None


class OpenVinoDecoder(DecoderSession):
    """A decoder. It keeps the memory of its largest picture until it is closed: 4.4 KB a pixel of an SD-VAE."""

    def __init__(self, files: BundleFiles, decoder: Decoder, threads: int | None) -> None:
        super().__init__(decoder, "openvino")
        self._graph: _Graph | None = _Graph(files.path(decoder.path), decoder.precision, threads)

    def pixels_from(self, z: FloatArray) -> FloatArray:
        assert self._graph is not None, "the session is closed"
        return self._graph.run({"z": z})

    def close(self) -> None:
        self._graph = None
