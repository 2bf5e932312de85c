"""Files of the original SiT release in the convention of this package: exact, and in the weights alone.

The release has t = 0 for noise and t = 1 for data, and a second half of output channels that sampling drops. So
v(x, t, y) = -v_release(x, 1 - t, y): the last layer is negated, and the first layer of the time embedding turned.
Source: arXiv 2401.08740 and https://github.com/willisma/SiT.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from elit_edge.errors import CheckpointError
from elit_edge.model.layers import time_frequencies
from elit_edge.model.published_facts import is_elastic

RELEASE = "release"
"""The field of a stated config that says whose convention a file has; it is no part of the model."""

PATCHES, TIME = "x_embedder.proj.weight", "t_embedder.mlp.0.weight"
OUTPUT, OUTPUT_BIAS = "final_layer.linear.weight", "final_layer.linear.bias"

SAY = '--config FILE.json with {"release": "sit", "num_heads": 16}, which are the heads of SiT-XL/2'
DIT = "it predicts noise at 1,000 discrete times, not the velocity of a rectified flow"


def in_own_convention(weights: Mapping[str, Tensor], release: object, source: str) -> Mapping[str, Tensor]:
    """The weights of a SiT whose velocity is that of this package; those of the authors' code are so already.

    Args:
        weights: under their published names.
        release: "sit" for the original release's convention; None where nothing was said.
        source: names the file in errors.

    Raises:
        CheckpointError: the file is of the original DiT release, may be, or is none that could be of SiT's.
    """
    if release is None and not _has_second_half(weights):
        return weights
    if release is None:
        raise CheckpointError(
            f"{source} gives two outputs a channel, as the original releases of SiT and of DiT do, "
            f"whose files look alike; if it is a SiT, say so: {SAY}; a DiT cannot be used: {DIT}"
        )
    if release == "dit":
        raise CheckpointError(f"{source} is of the original DiT release and cannot be used: {DIT}; take a SiT instead")
    if release != "sit":
        raise CheckpointError(f'{source}: release = {release!r} is unknown; it is "sit", or left out')
    if is_elastic(weights) or not _has_second_half(weights):
        raise CheckpointError(
            f"{source} is not of the SiT release, which gives two outputs a channel; leave out release"
        )
    try:
        return {**weights, **_turned(weights)}
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        fault = f"it lacks {error}" if isinstance(error, KeyError) else "its last layer or its time has another shape"
        raise CheckpointError(f"{source} is no SiT: {fault}") from error


def _has_second_half(weights: Mapping[str, Tensor]) -> bool:
    if OUTPUT not in weights or weights[OUTPUT].ndim == 0:
        return False
    return weights[OUTPUT].shape[0] == 2 * weights[PATCHES][0].numel()


def _turned(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The three weights that differ."""
    _, channels, patch, _ = weights[PATCHES].shape
    ours = {}
    for name in (OUTPUT, OUTPUT_BIAS):
        places = weights[name].unflatten(0, (patch * patch, 2 * channels))
        ours[name] = -places[:, :channels].flatten(0, 1)
    of_cosines, of_sines = weights[TIME].double().chunk(2, dim=1)
    cosine, sine = time_frequencies().double().cos(), time_frequencies().double().sin()
    turned = [of_cosines * cosine + of_sines * sine, of_cosines * sine - of_sines * cosine]
    return {**ours, TIME: torch.cat(turned, dim=1).float()}
