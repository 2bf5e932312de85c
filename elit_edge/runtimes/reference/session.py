"""The runtime contract on the torch model, with the weights of a bundle."""

from __future__ import annotations

import numpy as np
import torch

from elit_edge.bundle_files import BundleFiles
from elit_edge.manifest import Manifest
from elit_edge.model.bundle_weights import model_of_bundle
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.runtimes.contract import FloatArray, IntArray, Session


class ModelSession(Session):
    """A torch model behind the contract, in float32."""

    def __init__(self, model: DiffusionTransformer, manifest: Manifest) -> None:
        super().__init__(manifest, "reference", "fp32")
        self._model = model

    @torch.inference_mode()
    def condition(self, t: FloatArray, y: IntArray) -> FloatArray:
        return np.asarray(self._model.condition(torch.from_numpy(t), torch.from_numpy(y)))

    @torch.inference_mode()
    def velocity_from(self, x: FloatArray, modulations: FloatArray, latents: int) -> FloatArray:
        return np.asarray(self._model.velocity(torch.from_numpy(x), torch.from_numpy(modulations), latents))

    def close(self) -> None:
        """Nothing outlives the object."""


class ReferenceSession(ModelSession):
    """The model of a bundle; `precision` names whose numbers it stands for, it computes in float32 in any case."""

    def __init__(self, files: BundleFiles, precision: str, threads: int | None) -> None:
        super().__init__(model_of_bundle(files, precision), files.manifest)
        if threads is not None:
            torch.set_num_threads(threads)
