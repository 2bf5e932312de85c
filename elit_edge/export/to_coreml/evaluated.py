"""Packages behind the runtime contract, computed by the evaluator: what Core ML would be asked, answered here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elit_edge.export.mil.evaluator import MilFunction, Mode, Observer
from elit_edge.export.mil.reading import MilPackage
from elit_edge.manifest import CoreMlFunction, Manifest
from elit_edge.runtimes.coreml_.session import CoreMlSession, Predict

EVALUATOR = "evaluator"


class Packages:
    """Packages below a folder, each read once, whichever functions and modes are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._opened = folder, dict[str, MilPackage]()

    def __getitem__(self, name: str) -> MilPackage:
        """Raises:
        PackageError: it is missing or damaged.
        """
        if name not in self._opened:
            self._opened[name] = MilPackage.open(self._folder / name)
        return self._opened[name]


def evaluated_session(
    manifest: Manifest,
    packages: Packages,
    functions: Sequence[CoreMlFunction],
    variant: str,
    mode: Mode,
    observe: Observer | None = None,
) -> CoreMlSession:
    """A session over saved packages.

    Args:
        manifest: of the bundle that they were made from.
        packages: those of the functions.
        functions: what is to be evaluated.
        variant: the session's precision.
        mode: "exact" or "stored".
        observe: told of every floating output of every operator of a velocity.

    Raises:
        PackageError: when a function is first asked for: it is missing, damaged, or holds an unknown operator.
    """

    def load(function: CoreMlFunction) -> Predict:
        package = packages[function.package]
        ready = MilFunction(package, function.name or package.default_function, mode)
        watched = observe if function.role == "velocity" else None
        return partial(_predict, ready, watched)

    return CoreMlSession(manifest, functions, EVALUATOR, variant, load)


def _predict(
    function: MilFunction, observe: Observer | None, feeds: Mapping[str, npt.NDArray[Any]]
) -> Mapping[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = function({name: np.asarray(value) for name, value in feeds.items()}, observe)
    return found
