"""The torch model of a bundle, from the weights that its graphs share."""

from __future__ import annotations

from safetensors import SafetensorError
from safetensors.torch import load_file

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import BundleError
from elit_edge.model.transformer import DiffusionTransformer, assembled, constants

TRANSPOSED = "_t"
"""Ends the name of a matrix stored as [in, out], the order in which a graph's MatMul takes it."""


def model_of_bundle(files: BundleFiles, precision: str) -> DiffusionTransformer:
    """The model in float32, ready to be evaluated.

    Raises:
        BundleError: the weights are not those of the manifest's model.
    """
    path = files.path(files.manifest.graph("velocity", precision).weights)
    try:
        stored = {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise BundleError(f"{path} holds no weights: {error}; export the bundle again") from error
    state = {
        name.removesuffix(TRANSPOSED): tensor.t() if name.endswith(TRANSPOSED) else tensor
        for name, tensor in stored.items()
    }
    own = {name: value for name, value in state.items() if name not in constants(files.manifest.model)}
    try:
        return assembled(files.manifest.model, own)
    except RuntimeError as error:
        raise BundleError(f"{path} does not hold the weights of this model: {error}; export it again") from error
