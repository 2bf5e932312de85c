"""ONNX Runtime on the CPU: one session for the condition and one for the velocity serve every budget."""

from __future__ import annotations

from elit_edge.bundle_files import BundleFiles
from elit_edge.manifest import Decoder, Manifest
from elit_edge.runtimes.contract import DecoderSession, Missing, Ready, Runtime, Session, library_state

NO_KERNELS = ("bf16",)
"""Precisions whose products ONNX Runtime has no code for on a CPU."""


class OnnxRuntime(Runtime):
    """Reads the bundle's dynamic ONNX graphs."""

    name = "onnxruntime"

    def check(self) -> Ready | Missing:
        return library_state("onnxruntime", "pip install onnxruntime")

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        return tuple(precision for precision in manifest.precisions if precision not in NO_KERNELS)

    def prepare(self, files: BundleFiles, precision: str, threads: int | None) -> Session:
        from elit_edge.runtimes.onnxruntime_.session import OnnxRuntimeSession

        return OnnxRuntimeSession(files, precision, threads)

    def decodes(self, decoder: Decoder) -> bool:  # noqa: ARG002
        return True

    def prepare_decoder(self, files: BundleFiles, decoder: Decoder, threads: int | None) -> DecoderSession:
        from elit_edge.runtimes.onnxruntime_.session import OnnxRuntimeDecoder

        return OnnxRuntimeDecoder(files, decoder, threads)


RUNTIMES = (OnnxRuntime(),)
