"""Core ML on a Mac: packages that `elit-edge compile --target coreml` made, predicted through coremltools.

In an app the same packages are opened by clients/swift.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.manifest import CoreMlModel, Manifest
from elit_edge.runtimes.contract import Missing, Ready, Runtime, Session
from elit_edge.runtimes.coreml_ import library, system


class CoreMl(Runtime):
    """The packages of one layout, on the units that it is meant for."""

    def __init__(self, layout: str) -> None:
        self.name = f"coreml-{layout}"
        self.remedy = f"elit-edge compile BUNDLE --target coreml --layout {layout} makes packages"
        self._layout = layout

    def check(self) -> Ready | Missing:
        if system.macos() is None:
            return Missing(
                "Core ML is a part of Apple's systems, and this is none", "run on a Mac, or in an app (clients/swift)"
            )
        return library.state()

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        """The variants that the bundle brings packages for, the nearest to PyTorch first. Those that a newer macOS
        alone opens are among them: `settle` and `prepare` say so."""
        own = [model for model in manifest.coreml if model.layout == self._layout]
        return tuple(model.variant for model in sorted(own, key=lambda model: -model.parity.psnr_db))

    def settle(self, files: BundleFiles, precision: str, report: Callable[[str], None]) -> None:
        """Compile the packages, and have Core ML make each function ready for this Mac.

        Raises:
            BundleError: they do not open here, or lack a budget of the ladder, of which a plan may ask for any.
        """
        from elit_edge.runtimes.coreml_.loading import Loader

        model = self._model(files.manifest, precision)
        held = {function.latents for function in model.functions}
        missing = [latents for latents in files.manifest.budgets if latents not in held]
        if missing:
            raise BundleError(
                f"the {self._layout} {precision} Core ML packages of bundle {files.manifest.name} have no function for "
                f"{', '.join(map(str, missing))} latents, which its ladder has. Name this runtime to use the others; "
                f"{self.remedy} for all with --budgets {','.join(map(str, files.manifest.budgets))}"
            )
        Loader(files, model, report).settle(report)

    def prepare(self, files: BundleFiles, precision: str, threads: int | None) -> Session:  # noqa: ARG002
        from elit_edge.runtimes.coreml_.loading import Loader
        from elit_edge.runtimes.coreml_.placement import placements
        from elit_edge.runtimes.coreml_.session import CoreMlSession

        model = self._model(files.manifest, precision)
        loader = Loader(files, model)
        return CoreMlSession(files.manifest, model.functions, self.name, precision, loader, partial(placements, loader))

    def _model(self, manifest: Manifest, precision: str) -> CoreMlModel:
        """The packages of a variant.

        Raises:
            BundleError: the bundle has none, or this macOS does not open them.
        """
        for model in manifest.coreml:
            if (model.layout, model.variant) == (self._layout, precision):
                system.check_opens(manifest.name, model)
                return model
        able = ", ".join(self.precisions(manifest)) or "none"
        raise BundleError(
            f"bundle {manifest.name} has no {self._layout} Core ML packages in {precision}; it has: {able}. "
            f"{self.remedy}"
        )


RUNTIMES = (CoreMl("ane"), CoreMl("gpu"))
