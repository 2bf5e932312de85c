"""The runtime contract over the functions of Core ML packages, whoever computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from elit_edge.errors import BundleError
from elit_edge.manifest import CoreMlFunction, Manifest, TensorSpec
from elit_edge.runtimes.contract import FloatArray, IntArray, Placement, Session

Predict = Callable[[Mapping[str, npt.NDArray[Any]]], Mapping[str, npt.NDArray[Any]]]
"""Inputs by name, of the declared shapes, floats in float32 -> outputs by name."""
Load = Callable[[CoreMlFunction], Predict]


class CoreMlSession(Session):
    """Functions are loaded when they are first asked for. Rows beyond a function's batch go through it one batch after
    another; the last one is filled up with the row before it.
    """

    def __init__(
        self,
        manifest: Manifest,
        functions: Sequence[CoreMlFunction],
        runtime: str,
        precision: str,
        load: Load,
        placement: Callable[[], tuple[Placement, ...]] = tuple,
    ) -> None:
        super().__init__(manifest, runtime, precision)
        self._placement = placement
        self._load, self._loaded = load, dict[CoreMlFunction, Predict]()
        self._conditions = [function for function in functions if function.role == "condition"]
        self._velocities = [function for function in functions if function.role == "velocity"]

    def condition(self, t: FloatArray, y: IntArray) -> FloatArray:
        return self._in_batches(self._conditions, {"t": t, "y": y}, "modulations")

    def velocity_from(self, x: FloatArray, modulations: FloatArray, latents: int) -> FloatArray:
        self.manifest.check_latents(latents)
        able = [function for function in self._velocities if function.latents == latents]
        if not able:
            known = sorted({function.latents for function in self._velocities if function.latents})
            raise BundleError(
                f"the Core ML packages of {self.manifest.name} have no function for {latents} latents; they have: "
                f"{', '.join(map(str, known))}. elit-edge compile --budgets makes others"
            )
        return self._in_batches(able, {"x": x, "modulations": modulations}, "velocity")

    def placement(self) -> tuple[Placement, ...]:
        return self._placement()

    def close(self) -> None:
        self._loaded.clear()

    def _in_batches(
        self, functions: list[CoreMlFunction], arrays: Mapping[str, npt.NDArray[Any]], output: str
    ) -> FloatArray:
        count = len(next(iter(arrays.values())))
        found = []
        for function, rows in batches(functions, count):
            if function not in self._loaded:
                self._loaded[function] = self._load(function)
            feeds = {spec.name: _as_declared(arrays[spec.name][rows], spec) for spec in function.inputs}
            found.append(np.asarray(self._loaded[function](feeds)[output], np.float32))
        whole: FloatArray = np.concatenate(found)[:count]
        return whole


def batches(functions: list[CoreMlFunction], count: int) -> Iterator[tuple[CoreMlFunction, npt.NDArray[np.int64]]]:
    """Which function computes which rows of `count`: the largest batch that is full, then the smallest that holds the
    rest, the last row standing in for what is missing."""
    sizes = sorted(functions, key=lambda function: function.batch)
    begin = 0
    while begin < count:
        left = count - begin
        full = [function for function in sizes if function.batch <= left]
        function = full[-1] if full else sizes[0]
        yield function, np.minimum(np.arange(begin, begin + function.batch), count - 1)
        begin += function.batch


def _as_declared(array: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    """Of the declared shape, with the axes of one that a layout adds; floats in float32: who computes rounds them."""
    kind = np.float32 if spec.dtype.startswith("float") else spec.dtype
    return np.ascontiguousarray(array, kind).reshape(tuple(int(size) for size in spec.shape))
