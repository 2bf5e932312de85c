"""How large the numbers inside condition and velocity become on real trajectories, and what float16 needs for them."""

from __future__ import annotations

import gc
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from elit_edge.errors import ExportError
from elit_edge.export.to_coreml.evaluated import Packages, evaluated_session
from elit_edge.export.to_coreml.package import CONDITION, Emission, write_conditions, write_velocities
from elit_edge.export.to_coreml.recipe import MULTIFUNCTION, Ios, Range, Recipe
from elit_edge.export.to_coreml.weights import NORMS, identifier
from elit_edge.export.verify import Cases, trajectory_cases
from elit_edge.manifest import Manifest
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig
from elit_edge.runtimes.reference.session import ModelSession

FP16_GREATEST = 65504.0
FACTOR = 4.0
"""Head-room that is asked for: other states may go further."""
BUDGETS = 5
SEED = 20260911
"""Of the observed trajectories: others than those that packages are checked on."""
ROUNDS = 3
"""So often a recipe is mended before the model is refused."""
STREAM, MODULATIONS = "stream", "modulations"
"""What belongs to no part: the numbers that every block adds to, and those that go from condition to velocity."""
SUM = "_sum"

Report = Callable[[float], None]


@dataclass(frozen=True)
class Observed:
    """What was seen inside condition and velocity, in exact numbers."""

    ranges: dict[str, Range]
    """Of each operator's output, by the operator's name in a marked package."""
    recipe: Recipe
    """That they were seen with."""

    @property
    def headroom(self) -> float:
        """float16's greatest number over the greatest one that is to be stored in it."""
        return FP16_GREATEST / max(seen.greatest for name, seen in self.ranges.items() if not self._is_wide(name))

    def _is_wide(self, name: str) -> bool:
        return any(_within(name, part) for part in self.recipe.wide)

    def tight(self) -> list[str]:
        """The operators with less than the head-room which is asked for."""
        return [
            name
            for name, seen in self.ranges.items()
            if not seen.greatest * FACTOR <= FP16_GREATEST and not self._is_wide(name)
        ]


def observed_cases(
    model: DiffusionTransformer, manifest: Manifest, report: Report = lambda _: None
) -> tuple[Cases, ...]:
    """The trajectories to observe, at some budgets."""
    reference, budgets = ModelSession(model, manifest), spread(manifest.budgets, BUDGETS)
    found: list[Cases] = []
    for latents in budgets:
        report(len(found) / len(budgets))
        found.append(trajectory_cases(reference, latents, SEED))
    return tuple(found)


def fitted(emission: Emission, manifest: Manifest, cases: Sequence[Cases], report: Report) -> tuple[Recipe, Observed]:
    """The recipe with all that float16 needs for this model, and what was seen with it.

    Norms whose sum of squares comes too near to float16's greatest number are computed on smaller numbers; parts that
    hold other great numbers in float32.

    Raises:
        ExportError: the numbers between the parts themselves do not fit.
    """
    recipe = emission.recipe
    for _ in range(ROUNDS):
        seen = observe(replace(emission, recipe=recipe), manifest, cases, report)
        tight = seen.tight()
        if not tight:
            return recipe, seen
        recipe = _mended(recipe, seen, tight, manifest.model)
    raise ExportError(
        f"{manifest.name}: after {ROUNDS} rounds {tight[0]} still reaches {seen.ranges[tight[0]].greatest:.3g}, and "
        f"float16 ends at {FP16_GREATEST:.0f}; compile with --precision fp32"
    )


def observe(emission: Emission, manifest: Manifest, cases: Sequence[Cases], report: Report) -> Observed:
    """Write both, marked, the velocity at the budgets of the cases, and compute those in exact numbers."""
    ios: Ios = emission.recipe.ios if emission.recipe.multifunction else MULTIFUNCTION  # one copy for all budgets
    recipe = replace(emission.recipe, marked=True, ranges=None, compression=None, ios=ios)
    ranges: dict[str, Range] = {}

    def watch(name: str, tensor: Tensor) -> None:
        low, high = (float(value) for value in tensor.aminmax())
        if math.isnan(low):
            low, high = -math.inf, math.inf
        known = ranges.get(name, Range(low, high))
        ranges[name] = Range(min(low, known.low), max(high, known.high))

    def watch_velocity(name: str, _type: str, _output: str, tensor: Tensor) -> None:
        watch(name, tensor)

    def watch_condition(name: str, _type: str, _output: str, tensor: Tensor) -> None:
        watch(f"{STREAM if name == MODULATIONS else CONDITION}_{name}", tensor)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        marked = replace(emission, recipe=recipe, weights=emission.weights.uncompressed(ios))
        condition = write_conditions(marked, folder)
        functions = write_velocities(marked, folder, tuple(each.latents for each in cases), batches=(1,))
        del marked
        gc.collect()  # coremltools' programs are rings of references, and hold what was written
        session = evaluated_session(
            manifest,
            Packages(folder),
            (condition, *functions),
            recipe.precision,
            "exact",
            {"velocity": watch_velocity, "condition": watch_condition},
        )
        for done, each in enumerate(cases):
            report(done / len(cases))
            session.velocity(each.x, each.t, each.y, each.latents)
    return Observed(ranges, emission.recipe)


def spread(ladder: Sequence[int], count: int) -> tuple[int, ...]:
    """The least, the full one, and some between in equal ratios."""
    wanted = np.geomspace(min(ladder), max(ladder), count)
    return tuple(sorted({min(ladder, key=lambda rung: abs(rung - value)) for value in wanted}))


def _mended(recipe: Recipe, seen: Observed, tight: Sequence[str], config: ModelConfig) -> Recipe:
    """Norms first: what is left may come from them."""
    prescale = dict(recipe.prescale)
    for norm in NORMS:
        total = f"{identifier(norm)}{SUM}"
        if total in tight and norm not in prescale and math.isfinite(seen.ranges[total].greatest):
            # a power of two loses no digit, and leaves four times the room that is asked for
            prescale[norm] = 2.0 ** -math.ceil(math.log2(seen.ranges[total].greatest * FACTOR**2 / FP16_GREATEST) / 2)
    if prescale != recipe.prescale:
        return replace(recipe, prescale=prescale)
    parts = [f"blocks.{index}.{kind}" for index in range(config.depth) for kind in ("attn", "mlp")]
    parts += ["read.attn", "read.mlp", "write.attn", "write.mlp", "final", CONDITION]
    wide = {part for part in parts if any(_within(name, part) for name in tight)}
    beyond = [name for name in tight if not any(_within(name, part) for part in parts)]
    if beyond or wide <= recipe.wide:
        name = beyond[0] if beyond else tight[0]
        raise ExportError(
            f"{name} of this model reaches {seen.ranges[name].greatest:.3g} between its parts, and float16 ends at "
            f"{FP16_GREATEST:.0f}; compile with --precision fp32"
        )
    return replace(recipe, wide=recipe.wide | wide)


def _within(name: str, part: str) -> bool:
    """Whether an operator of a marked package belongs to a part."""
    return f"{name}_".startswith(f"{identifier(part)}_")
