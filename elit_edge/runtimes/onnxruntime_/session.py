"""The sessions of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.manifest import Decoder, Graph, Role
from elit_edge.runtimes.contract import DecoderSession, FloatArray, IntArray, Session

ort.disable_telemetry_events()

UNPACKED = ("w8",)
"""Precisions whose weights no kernel takes as they are stored: in each call they would be unpacked anew."""
QUIET = 3
"""Severity from which ONNX Runtime writes to stderr: errors alone."""


def inference_session(
    model: Path | bytes, threads: int | None, *, spinning: bool = True, unpacking: bool = False, planning: bool = True
) -> ort.InferenceSession:
    """A quiet session on the CPU.

    Args:
        model: an ONNX file, or its bytes.
        threads: of one call; None leaves it to ONNX Runtime.
        spinning: whether threads wait for more work by spinning, which takes a core for some 40 ms.
        unpacking: make integers float32 once, when the session opens, rather than in each call.
        planning: remember the room that all values of a call took, and take it at once in the next call of its shape.

    Raises:
        RuntimeError: ONNX Runtime refuses it; the message is its own, in one line.
    """
    options = ort.SessionOptions()
    options.log_severity_level = QUIET
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if unpacking:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.enable_mem_pattern = planning
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no narrower class
        raise RuntimeError(str(error).strip().splitlines()[0]) from error


def open_graph(files: BundleFiles, graph: Graph, threads: int | None) -> ort.InferenceSession:
    """An inference session on one graph; its weights are read from the bundle's shared file.

    Raises:
        BundleError: ONNX Runtime refuses the graph.
    """
    path = files.graph_path(graph)
    with _refusals(path):
        # `condition` is called once a run: threads that spin after it would take the cores from the first steps
        return inference_session(
            path, threads, spinning=graph.role != "condition", unpacking=graph.precision in UNPACKED
        )


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise BundleError(f"ONNX Runtime {ort.__version__} refuses {path}: {error}; export the bundle again") from error


class OnnxRuntimeSession(Session):
    """One graph a role, of any budget and batch."""

    def __init__(self, files: BundleFiles, precision: str, threads: int | None) -> None:
        super().__init__(files.manifest, "onnxruntime", precision)
        self._condition: ort.InferenceSession | None = self._open(files, "condition", threads)
        self._velocity: ort.InferenceSession | None = self._open(files, "velocity", threads)

    def _open(self, files: BundleFiles, role: Role, threads: int | None) -> ort.InferenceSession:
        return open_graph(files, self.manifest.graph(role, self.precision), threads)

    def condition(self, t: FloatArray, y: IntArray) -> FloatArray:
        assert self._condition is not None, "the session is closed"
        modulations: FloatArray = self._condition.run(None, {"t": t, "y": y})[0]
        return modulations

    def velocity_from(self, x: FloatArray, modulations: FloatArray, latents: int) -> FloatArray:
        assert self._velocity is not None, "the session is closed"
        feeds: dict[str, Any] = {"x": x, "modulations": modulations}
        if self.manifest.model.is_elastic:
            feeds["latents"] = np.zeros(latents, np.int64)
        v: FloatArray = self._velocity.run(None, feeds)[0]
        return v

    def close(self) -> None:
        self._condition = self._velocity = None


class OnnxRuntimeDecoder(DecoderSession):
    """A decoder, whose memory is given back after each call.

    So an SD-VAE took 5.4 KB a pixel. By its defaults the second call of a shape took 9.8 KB, all of it kept; without an
    arena it took 16 KB. The time was the same.
    """

    def __init__(self, files: BundleFiles, decoder: Decoder, threads: int | None) -> None:
        super().__init__(decoder, "onnxruntime")
        path = files.path(decoder.path)
        with _refusals(path):
            self._graph: ort.InferenceSession | None = inference_session(path, threads, planning=False)
        self._giving_back = ort.RunOptions()
        self._giving_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def pixels_from(self, z: FloatArray) -> FloatArray:
        assert self._graph is not None, "the session is closed"
        pixels: FloatArray = self._graph.run(None, {"z": z}, self._giving_back)[0]
        return pixels

    def close(self) -> None:
        self._graph = None
