"""PyTorch on the bundle's own weights: what every other runtime is measured against. Needs elit-edge[export]."""

from __future__ import annotations

from elit_edge.bundle_files import BundleFiles
from elit_edge.manifest import Manifest
from elit_edge.runtimes.contract import Missing, Ready, Runtime, Session, library_state

REMEDY = "pip install 'elit-edge[export]'"


class Reference(Runtime):
    """Runs the torch model itself, not a graph."""

    name = "reference"
    remedy = "export the bundle again with --dtype fp32"

    def check(self) -> Ready | Missing:
        state = library_state("torch", REMEDY)
        weights = library_state("safetensors", REMEDY)
        return weights if isinstance(state, Ready) and isinstance(weights, Missing) else state

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        return tuple(precision for precision in manifest.precisions if precision == "fp32")

    def prepare(self, files: BundleFiles, precision: str, threads: int | None) -> Session:
        from elit_edge.runtimes.reference.session import ReferenceSession

        return ReferenceSession(files, precision, threads)


RUNTIMES = (Reference(),)
