"""Which layers matter: what harm each does alone, and how far its range moves with the budget and the time."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from elit_edge.calibration.record import Layer, Range, Sensitivity


def worst(layer: Layer) -> Sensitivity | None:
    """The budget that suffers most from this layer alone."""
    return min(layer.sensitivity, key=lambda each: each.psnr_db, default=None)


def by_harm(layers: Sequence[Layer]) -> list[tuple[Layer, Sensitivity]]:
    """The layers that were tried alone, the most harmful first."""
    tried = [(layer, found) for layer in layers if (found := worst(layer)) is not None]
    return sorted(tried, key=lambda each: each[1].psnr_db)


def kind(name: str) -> str:
    """A layer's name without the number of its block: "blocks.*.mlp.fc2"."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


@dataclass(frozen=True)
class Movement:
    """The greatest magnitude of a layer's input, stratum against stratum.

    A ratio is that of the largest to the least magnitude over one axis, all else equal, where it is greatest. It is 1
    where nothing moves, infinite where a stratum holds nothing but zeros, None where the set has one value of the axis.
    """

    layer: str
    widest: Range
    """The stratum of the greatest magnitude."""
    by_budget: float | None
    by_time: float | None
    by_class: float | None
    """Conditional against null, either way."""

    @property
    def most(self) -> float:
        return max(self.by_budget or 1.0, self.by_time or 1.0)


def magnitude(found: Range) -> float:
    """The greatest |value|."""
    return max(abs(found.low), abs(found.high))


def movement(layer: Layer) -> Movement | None:
    """None where no ranges were recorded."""
    if not layer.ranges:
        return None
    return Movement(
        layer.name,
        max(layer.ranges, key=magnitude),
        _greatest_ratio(layer.ranges, lambda each: (each.t, each.conditional)),
        _greatest_ratio(layer.ranges, lambda each: (each.latents, each.conditional)),
        _greatest_ratio(layer.ranges, lambda each: (each.latents, each.t)),
    )


def _greatest_ratio(ranges: Iterable[Range], all_else: Callable[[Range], Hashable]) -> float | None:
    groups: defaultdict[Hashable, list[float]] = defaultdict(list)
    for each in ranges:
        groups[all_else(each)].append(magnitude(each))
    return max((_ratio(max(group), min(group)) for group in groups.values() if len(group) > 1), default=None)


def _ratio(largest: float, least: float) -> float:
    if least > 0:
        return largest / least
    return math.inf if largest > 0 else 1.0
