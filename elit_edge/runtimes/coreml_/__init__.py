"""Core ML on a Mac: packages that `elit-edge compile --target coreml` made, predicted through coremltools.

In an app the same packages are opened by clients/swift.
"""

from __future__ import annotations

import sys

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.manifest import CoreMlModel, Manifest
from elit_edge.runtimes.contract import Missing, Ready, Runtime, Session, library_state

REMEDY = "pip install 'elit-edge[coreml]'"


class CoreMl(Runtime):
    """The packages of one layout, on the units that it is meant for."""

    def __init__(self, layout: str) -> None:
        self.name = f"coreml-{layout}"
        self.remedy = f"elit-edge compile BUNDLE --target coreml --layout {layout} makes packages"
        self._layout = layout

    def check(self) -> Ready | Missing:
        if sys.platform != "darwin":
            return Missing(
                "Core ML is a part of Apple's systems, and this is none", "run on a Mac, or in an app (clients/swift)"
            )
        return library_state("coremltools", REMEDY)

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        """The variants that the bundle brings packages for."""
        return tuple(model.variant for model in manifest.coreml if model.layout == self._layout)

    def prepare(self, files: BundleFiles, precision: str, threads: int | None) -> Session:  # noqa: ARG002
        from elit_edge.runtimes.coreml_.loading import Loader
        from elit_edge.runtimes.coreml_.session import CoreMlSession

        model = self.model(files.manifest, precision)
        return CoreMlSession(files.manifest, model.functions, self.name, precision, Loader(files, model))

    def model(self, manifest: Manifest, precision: str) -> CoreMlModel:
        """The packages of a variant.

        Raises:
            BundleError: the bundle has none.
        """
        for model in manifest.coreml:
            if (model.layout, model.variant) == (self._layout, precision):
                return model
        able = ", ".join(self.precisions(manifest)) or "none"
        raise BundleError(
            f"bundle {manifest.name} has no {self._layout} packages in {precision}; it has: {able}. {self.remedy}"
        )


RUNTIMES = (CoreMl("ane"), CoreMl("gpu"))
