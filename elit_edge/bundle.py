"""What users of a bundle hold: open it, read its manifest, prepare it on a runtime."""

from __future__ import annotations

import os
from pathlib import Path

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError, RequestError
from elit_edge.manifest import Manifest
from elit_edge.runtimes.contract import Session
from elit_edge.runtimes.registry import choose


class Bundle:
    """An opened bundle; every byte of it has been checked against its digests."""

    def __init__(self, files: BundleFiles) -> None:
        self.files = files

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open the folder `NAME.elit`.

        Raises:
            BundleError: it is no bundle, of another schema version, or damaged.
        """
        return cls(BundleFiles.open(Path(path)))

    @property
    def manifest(self) -> Manifest:
        return self.files.manifest

    def prepare(self, runtime: str = "auto", precision: str | None = None, threads: int | None = None) -> Session:
        """Make the bundle ready to compute.

        Args:
            runtime: "onnxruntime", "reference", or "auto" for the first that is ready.
            precision: one of `manifest.precisions`; None for the first of them.
            threads: CPU threads of one call; None leaves it to the runtime.

        Returns:
            A session, to be used as a context manager.

        Raises:
            RequestError: `threads` is less than 1.
            RuntimeUnavailable: the runtime is not ready here; the message holds the remedy.
            BundleError: the bundle has no graphs of that precision, or the runtime refuses them.
        """
        if threads is not None and threads < 1:
            raise RequestError(f"threads = {threads}: at least 1, or None to leave it to the runtime")
        available = self.manifest.precisions
        if precision is not None and precision not in available:
            raise BundleError(f"bundle {self.manifest.name} has no {precision} graphs; it has: {', '.join(available)}")
        return choose(runtime).prepare(self.files, precision or available[0], threads)
