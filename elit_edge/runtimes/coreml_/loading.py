"""Functions of compiled packages, opened on the units that they are meant for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.manifest import CoreMlFunction, CoreMlModel
from elit_edge.runtimes.coreml_.compiled import CompiledPackage, compiled
from elit_edge.runtimes.coreml_.library import coremltools
from elit_edge.runtimes.coreml_.session import Predict

UNITS = {"ane": "CPU_AND_NE", "gpu": "CPU_AND_GPU"}
"""Of a layout's velocities, by coremltools' names; conditions are small and stay on the CPU."""


class Loader:
    """Opens the functions of one set of packages, which are compiled when this is made."""

    def __init__(self, files: BundleFiles, model: CoreMlModel, report: Callable[[str], None] = lambda _: None) -> None:
        """Raises:
        BundleError: Core ML refuses a package, or the cache cannot be written.
        """
        self.model = model
        names = dict.fromkeys(function.package for function in model.functions)
        self.packages: dict[str, CompiledPackage] = {name: compiled(files, name, report) for name in names}

    def __call__(self, function: CoreMlFunction) -> Predict:
        """Raises:
        BundleError: Core ML refuses the function.
        """
        place = f"{function.package}{f', function {function.name}' if function.name else ''}"
        path, units = str(self.packages[function.package].model), self.units(function)
        library = coremltools()
        try:
            opened = library.models.CompiledMLModel(path, units, function_name=function.name)
        except Exception as error:  # Core ML's errors have no class of their own
            raise BundleError(
                f"Core ML does not open {place}: {error}; elit-edge compile BUNDLE --target coreml makes it again"
            ) from error

        kinds = {spec.name: spec.dtype for spec in function.inputs}

        def predict(feeds: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
            try:
                given = {name: np.asarray(value, kinds[name]) for name, value in feeds.items()}
                found: dict[str, npt.NDArray[Any]] = opened.predict(given)
            except Exception as error:  # as above
                raise BundleError(f"Core ML does not compute {place}: {error}") from error
            return found

        return predict

    def units(self, function: CoreMlFunction) -> Any:
        """Where Core ML may compute a function."""
        name = "CPU_ONLY" if function.role == "condition" else UNITS[self.model.layout]
        return coremltools().ComputeUnit[name]

    def settle(self, report: Callable[[str], None]) -> None:
        """Compute each function once, where that was not done before: what Core ML makes of a function for a device,
        for the Neural Engine above all, it makes at its first use, and keeps.

        Raises:
            BundleError: Core ML refuses one.
        """
        for name, package in self.packages.items():
            if package.is_settled:
                continue
            functions = [function for function in self.model.functions if function.package == name]
            report(f"preparing {name} for this Mac: {len(functions)} functions (once)")
            for function in functions:
                self(function)({spec.name: np.zeros(_shape(spec.shape), spec.dtype) for spec in function.inputs})
            package.settled()


def _shape(declared: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(int(size) for size in declared)
