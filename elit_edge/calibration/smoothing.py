"""Moving an activation's spread over channels into the weight that follows: x W = (x / s) (s W).

An activation has one scale for all of its channels, a weight one for each output: outliers are cheaper in the weight.
Where x is a modulated norm, 1 / s goes into the modulation's own weights; where it is attended values, into the columns
that make them. Both cost nothing. Elsewhere the graph multiplies, which costs a pass over x.
Source: SmoothQuant, arXiv 2211.10438.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elit_edge.calibration.sites import Site
from elit_edge.model.bundle_weights import TRANSPOSED
from elit_edge.model.layers import Block
from elit_edge.model.transformer import Read
from elit_edge.model_config import ModelConfig

FloatArray = npt.NDArray[np.float32]
LEAST = 1e-5


def factors(channel_max: FloatArray, weight: FloatArray, alpha: float) -> FloatArray:
    """s [inputs]: the greatest magnitude of each channel to the power alpha, over that of its weights to 1 - alpha.

    Args:
        channel_max: [inputs] of the activation.
        weight: [inputs, outputs].
        alpha: 0..1.
    """
    own = np.maximum(np.abs(weight).max(1), LEAST)
    s = np.maximum(channel_max, LEAST) ** alpha / own ** (1 - alpha)
    return np.asarray(s / np.exp(np.log(s).mean()), np.float32)


@dataclass(frozen=True)
class Scaling:
    """A part of a stored tensor, along one axis, that is multiplied."""

    tensor: str
    axis: int
    start: int
    factors: FloatArray

    def apply(self, values: FloatArray) -> FloatArray:
        """The tensor with its part multiplied; the argument stays as it is."""
        scaled = values.copy()
        part = np.moveaxis(scaled, self.axis, -1)[..., self.start : self.start + len(self.factors)]
        part *= self.factors
        return scaled


def folds(site: Site, config: ModelConfig) -> bool:
    """Whether the division can go into weights before the site."""
    return bool(_divisions(site, config, np.ones(site.inputs, np.float32)))


def scalings(site: Site, config: ModelConfig, s: FloatArray) -> list[Scaling]:
    """What smoothing a site does to stored tensors: the weight's rows times s, and the division where it folds."""
    return [Scaling(site.weight, site.input_axis, 0, s), *_divisions(site, config, np.float32(1) / s)]


def _divisions(site: Site, config: ModelConfig, divisor: FloatArray) -> list[Scaling]:
    width = config.hidden_size
    owner, _, layer = site.name.rpartition(".")
    if (kind := MODULATED.get(_kind(site.name))) is not None:
        table = "final_modulation" if site.name == "final" else f"{site.name.removesuffix(kind.suffix)}modulation"
        found = []
        for vector in kind.vectors:
            place = vector * width
            found.append(Scaling(f"{table}.weight", 0, place, divisor))
            found.append(Scaling(f"{table}.bias", 0, place, divisor))
            found.append(Scaling("unit", 0, section_starts(config)[table] + place, divisor))
        return found
    if layer == "proj":
        source = f"{owner}.qkv" if owner.startswith("blocks.") else f"{owner}.kv_proj"
        start = (2 if owner.startswith("blocks.") else 1) * width  # the values come last
        return [
            Scaling(f"{source}.weight{TRANSPOSED}", 1, start, divisor),
            Scaling(f"{source}.bias", 0, start, divisor),
        ]
    return []


@dataclass(frozen=True)
class _Modulated:
    """A layer whose input is norm(x) · scale + shift: which vectors of the modulation those are."""

    suffix: str
    vectors: tuple[int, int]


MODULATED: Mapping[str, _Modulated] = {
    "blocks.attn.qkv": _Modulated("attn.qkv", (0, 1)),
    "blocks.mlp.fc1": _Modulated("mlp.fc1", (3, 4)),
    "read.attn.kv_proj": _Modulated("attn.kv_proj", (0, 1)),
    "read.mlp.fc1": _Modulated("mlp.fc1", (3, 4)),
    "final": _Modulated("final", (0, 1)),
}


def _kind(name: str) -> str:
    """The layer's name without the number of its block."""
    return ".".join(part for part in name.split(".") if not part.isdecimal())


def section_starts(config: ModelConfig) -> dict[str, int]:
    """Where each modulation begins in the packed vector, by the name of its layer; the order of `condition`."""
    names = [f"blocks.{index}.modulation" for index in range(config.depth)]
    sizes = [Block.MODULATIONS * config.hidden_size] * config.depth
    if config.is_elastic:
        names.insert(config.head_depth, "read.modulation")
        sizes.insert(config.head_depth, Read.MODULATIONS * config.hidden_size)
    names.append("final_modulation")
    return dict(zip(names, itertools.accumulate(sizes, initial=0), strict=True))
