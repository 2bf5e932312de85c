"""Packages on a Mac: compiled once into the user's cache, opened a function at a time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.files import cache_folder
from elit_edge.manifest import CoreMlFunction, CoreMlModel
from elit_edge.runtimes.coreml_.session import Predict

COMPILED = ".mlmodelc"


class Loader:
    """Opens the functions of one set of packages; conditions on the CPU, velocities where their layout belongs."""

    def __init__(self, files: BundleFiles, model: CoreMlModel) -> None:
        self._files, self._model = files, model

    def __call__(self, function: CoreMlFunction) -> Predict:
        """Raises:
        BundleError: Core ML refuses the package.
        """
        import coremltools

        units = coremltools.ComputeUnit
        unit = {"ane": units.CPU_AND_NE, "gpu": units.CPU_AND_GPU}[self._model.layout]
        compiled = self.compiled(function)
        try:
            opened = coremltools.models.CompiledMLModel(
                str(compiled), units.CPU_ONLY if function.role == "condition" else unit, function_name=function.name
            )
        except Exception as error:  # Core ML's errors have no class of their own
            raise BundleError(
                f"Core ML does not open {function.package}{f', function {function.name}' if function.name else ''}: "
                f"{error}; it needs iOS {self._model.ios}'s macOS or later"
            ) from error

        def predict(feeds: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
            found: dict[str, npt.NDArray[Any]] = opened.predict(dict(feeds))
            return {name: np.asarray(value) for name, value in found.items()}

        return predict

    def compiled(self, function: CoreMlFunction) -> Path:
        """The package as Core ML has compiled it, on this machine, once.

        Raises:
            BundleError: Core ML refuses to compile it.
        """
        import coremltools

        package = self._files.path(function.package)
        folder = cache_folder("coreml")
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{self._files.digest[:32]}-{function.package.replace('/', '-')}{COMPILED}"
        with FileLock(f"{target}.lock"):
            if not target.exists():
                part = target.with_suffix(f".part{COMPILED}")
                shutil.rmtree(part, ignore_errors=True)
                try:
                    coremltools.utils.compile_model(str(package), str(part))
                except Exception as error:  # as above
                    raise BundleError(f"Core ML does not compile {function.package}: {error}") from error
                part.replace(target)
        return target
