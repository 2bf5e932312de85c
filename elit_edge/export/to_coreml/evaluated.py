"""Packages behind the runtime contract, computed by the evaluator: what Core ML would be asked, answered here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from elit_edge.export.mil.evaluator import MilFunction, Mode, Observer
from elit_edge.export.mil.reading import MilPackage
from elit_edge.export.to_coreml.weights import identifier
from elit_edge.manifest import CoreMlFunction, Manifest, Role
from elit_edge.runtimes.coreml_.session import CoreMlSession, Predict

EVALUATOR = "evaluator"
CONDITION_ARRAYS = ("time.", "label.", "modulation.")


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
    observe: Mapping[Role, Observer] | None = None,
) -> CoreMlSession:
    """A session over saved packages.

    Args:
        manifest: of the bundle that they were made from.
        packages: those of the functions.
        functions: what is to be evaluated.
        variant: the session's precision.
        mode: "exact", "stored" or "unrounded".
        observe: by role, told of every floating output of every operator.

    Raises:
        PackageError: when a function is first asked for: it is missing, damaged, or holds an unknown operator.
    """

    def load(function: CoreMlFunction) -> Predict:
        package = packages[function.package]
        ready = MilFunction(package, function.name or package.default_function, mode)
        return partial(_predict, ready, (observe or {}).get(function.role))

    return CoreMlSession(manifest, functions, EVALUATOR, variant, load)


def _predict(
    function: MilFunction, observe: Observer | None, feeds: Mapping[str, npt.NDArray[Any]]
) -> Mapping[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = function({name: np.asarray(value) for name, value in feeds.items()}, observe)
    return found


def arrays_in(
    packages: Packages, functions: Sequence[CoreMlFunction], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `weights.arrays_of` as packages hold them, decompressed, float32.

    Args:
        packages: those of the functions.
        functions: one of each role is looked into; they share their weights.
        shapes: of the arrays, by name.

    Raises:
        PackageError: one is missing.
    """
    first = {function.role: function for function in reversed(functions)}
    opened = {
        role: MilFunction(packages[each.package], each.name or packages[each.package].default_function)
        for role, each in first.items()
    }
    found = {}
    for name, shape in shapes.items():
        role: Literal["condition", "velocity"] = "condition" if name.startswith(CONDITION_ARRAYS) else "velocity"
        stored = opened[role].weight(identifier(name))
        # what the "ane" layout adds to tokens is stored channels first
        turned = stored[0, :, 0].T if stored.shape == (1, *shape[1:], 1, *shape[:1]) else stored
        found[name] = np.ascontiguousarray(turned, np.float32).reshape(shape)
    return found
