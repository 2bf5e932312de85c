"""TensorRT and TensorRT for RTX on NVIDIA GPUs: engines that `elit-edge compile` made of the bundle's graphs."""

from __future__ import annotations

from collections.abc import Callable

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.manifest import Manifest
from elit_edge.runtimes.contract import Missing, Ready, Runtime, Session
from elit_edge.runtimes.tensorrt_.library import TENSORRT, TENSORRT_RTX, Library


class TensorRt(Runtime):
    """One of the two libraries."""

    def __init__(self, library: Library) -> None:
        self.name = library.name
        self.remedy = f"elit-edge compile BUNDLE --target {library.name} makes engines"
        self._library = library

    def check(self) -> Ready | Missing:
        from elit_edge.runtimes.tensorrt_.cuda import find_gpu

        state = self._library.state()
        if isinstance(state, Missing):
            return state
        gpu = find_gpu()
        if isinstance(gpu, Missing):
            return gpu
        try:
            self._library.load()
        except (ImportError, OSError, RuntimeError) as error:
            return Missing(f"{self._library.title} is installed and cannot be loaded: {error}", self._library.remedy)
        return state

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        """Those that the bundle brings engines for."""
        own = {engine.precision for engine in manifest.engines if engine.library == self.name}
        return tuple(precision for precision in manifest.precisions if precision in own)

    def settle(self, files: BundleFiles, precision: str, report: Callable[[str], None]) -> None:
        from elit_edge.runtimes.tensorrt_.compiling import rebuild

        rebuild(files, self._library, precision, report)  # type: ignore[arg-type]  # one of `precisions`

    def prepare(self, files: BundleFiles, precision: str, threads: int | None) -> Session:  # noqa: ARG002
        from elit_edge.runtimes.tensorrt_.cuda import need_gpu
        from elit_edge.runtimes.tensorrt_.engines import fitting
        from elit_edge.runtimes.tensorrt_.fitting import here
        from elit_edge.runtimes.tensorrt_.session import TensorRtSession

        able = self.precisions(files.manifest)
        if precision not in able:
            raise BundleError(
                f"{self._library.title} cannot compute bundle {files.manifest.name} in {precision}; "
                f"choose one of: {', '.join(able)}"
            )
        pair = fitting(files, precision, here(self._library, need_gpu()))
        return TensorRtSession(files, self._library, precision, pair)


RUNTIMES = (TensorRt(TENSORRT), TensorRt(TENSORRT_RTX))
