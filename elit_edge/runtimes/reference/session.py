"""The runtime contract on the torch model, with the weights of a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elit_edge.bundle_files import BundleFiles
from elit_edge.manifest import Manifest
from elit_edge.model.bundle_weights import model_of_bundle
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.runtimes.contract import FloatArray, IntArray, Session


class ModelSession(Session):
    """A torch model behind the contract, in float32."""

    def __init__(self, model: DiffusionTransformer, manifest: Manifest, threads: int | None = None) -> None:
        super().__init__(manifest, "reference", "fp32")
        self._model = model
        self._threads = threads

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """torch counts its threads for the whole process; what others set is theirs again afterwards."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads or before)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    def condition(self, t: FloatArray, y: IntArray) -> FloatArray:
        with self._computing():
            return np.asarray(self._model.condition(_tensor(t), _tensor(y)))

    def velocity_from(self, x: FloatArray, modulations: FloatArray, latents: int) -> FloatArray:
        with self._computing():
            return np.asarray(self._model.velocity(_tensor(x), _tensor(modulations), latents))

    def close(self) -> None:
        """Nothing outlives the object."""


class ReferenceSession(ModelSession):
    """The model of a bundle; `precision` names whose numbers it stands for, it computes in float32 in any case."""

    def __init__(self, files: BundleFiles, precision: str, threads: int | None) -> None:
        super().__init__(model_of_bundle(files, precision), files.manifest, threads)


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """torch warns of an array that it could not write to, though nothing here writes."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
