"""OpenVINO on the CPU: one model for the condition and one for the velocity serve every budget."""

from __future__ import annotations

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.manifest import Decoder, Manifest
from elit_edge.runtimes.contract import DecoderSession, Missing, Ready, Runtime, Session, library_state


class OpenVino(Runtime):
    """Reads the bundle's dynamic ONNX graphs; computes those of fp32 in bf16 too where the CPU has it."""

    name = "openvino"

    def check(self) -> Ready | Missing:
        return library_state("openvino", "pip install 'elit-edge[openvino]'")

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        from elit_edge.runtimes.openvino_.session import cpu_capabilities

        own = manifest.precisions
        derived = "fp32" in own and "bf16" not in own and "BF16" in cpu_capabilities()
        return (*own, "bf16") if derived else own

    def prepare(self, files: BundleFiles, precision: str, threads: int | None) -> Session:
        from elit_edge.runtimes.openvino_.session import OpenVinoSession

        available = self.precisions(files.manifest)
        if precision not in available:
            raise BundleError(
                f"OpenVINO cannot compute bundle {files.manifest.name} in {precision} on this CPU; "
                f"choose one of: {', '.join(available)}"
            )
        return OpenVinoSession(files, precision, threads)

    def decodes(self, decoder: Decoder) -> bool:  # noqa: ARG002
        return True

    def prepare_decoder(self, files: BundleFiles, decoder: Decoder, threads: int | None) -> DecoderSession:
        from elit_edge.runtimes.openvino_.session import OpenVinoDecoder

        return OpenVinoDecoder(files, decoder, threads)


RUNTIMES = (OpenVino(),)
