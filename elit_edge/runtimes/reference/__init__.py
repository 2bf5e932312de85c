"""PyTorch on the bundle's own weights: what every other runtime is measured against. Needs elit-edge[export]."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from elit_edge.bundle_files import BundleFiles
from elit_edge.runtimes.contract import Missing, Ready, Session


class Reference:
    """Runs the torch model itself, not a graph."""

    name = "reference"

    def check(self) -> Ready | Missing:
        if importlib.util.find_spec("torch") is None:
            return Missing("the package torch is not installed", "pip install elit-edge[export]")
        return Ready(importlib.metadata.version("torch"))

    def prepare(self, files: BundleFiles, precision: str, threads: int | None) -> Session:
        from elit_edge.runtimes.reference.session import ReferenceSession

        return ReferenceSession(files, precision, threads)


RUNTIME = Reference()
