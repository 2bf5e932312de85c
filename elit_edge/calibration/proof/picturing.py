"""The pictures of a precision beside those of float32 from the same seeds, and what they lose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from elit_edge.calibration.proof.held_out import SEEDS
from elit_edge.calibration.proof.paired import frechet_change, mean
from elit_edge.errors import PictureError
from elit_edge.evaluation.evaluating import BATCH, relative_distances, shown
from elit_edge.evaluation.features import FeatureNetwork
from elit_edge.evaluation.plans import Plan, reference_plan
from elit_edge.generation import Progress, generate
from elit_edge.manifest import Manifest
from elit_edge.noise import SEED_LIMIT
from elit_edge.runtimes.contract import Session
from elit_edge.sampling import Array
from elit_edge.verdict import Interval

OTHER_SEEDS = 2 * SEEDS
"""The reference's pictures for the Frechet distance are so far from the others: how good is asked, not how alike."""
REFERENCE_STEPS = 2
"""Of the reference, for each step of the pictures: near enough to judge them by, and affordable."""

Report = Callable[[str, float], None]
"""Told the stage and the share of it that is done, 0..1."""
Compared = tuple[Interval, Interval, Interval | None]
"""Departure, loss and change of the Frechet distance, as in `BudgetVerdict`."""


@dataclass(frozen=True)
class Recipe:
    """What pictures to make at each budget; batches of 16 draw from seed, seed + 1 and so on."""

    pictures: int
    steps: int
    seed: int


def compare(
    fp32: Session,
    own: Session,
    budgets: Sequence[int],
    recipe: Recipe,
    network: FeatureNetwork | None,
    report: Report,
) -> tuple[dict[int, Compared], tuple[str, ...]]:
    """What the pictures of each budget lose, and the faults of those that are none: their budgets are left out.

    Raises:
        PictureError: float32 makes no pictures at the full budget, so there is nothing to judge by.
    """
    studio = _Studio(fp32.manifest, budgets, recipe, 1 if network is None else 2, report)
    reference = studio.samples(fp32, studio.reference)
    others = (
        None if network is None else network(shown(studio.samples(fp32, studio.reference, OTHER_SEEDS), fp32.manifest))
    )
    found: dict[int, Compared] = {}
    broken: list[str] = []
    for latents in budgets:
        theirs, ours = (studio.attempt(session, latents, broken) for session in (fp32, own))
        if theirs is None or ours is None:
            continue
        change = None
        if network is not None and others is not None:
            change = frechet_change(network(shown(ours, fp32.manifest)), network(shown(theirs, fp32.manifest)), others)
        loss = relative_distances(ours, reference) - relative_distances(theirs, reference)
        found[latents] = (mean(relative_distances(ours, theirs)), mean(loss), change)
    return found, tuple(broken)


class _Studio:
    """Makes the pictures of plans, and reports the share of the work that is done."""

    def __init__(
        self, manifest: Manifest, budgets: Sequence[int], recipe: Recipe, references: int, report: Report
    ) -> None:
        best = reference_plan(manifest)
        self.reference = dataclasses.replace(best, steps=REFERENCE_STEPS * recipe.steps)
        self._plans = {latents: dataclasses.replace(best, steps=recipe.steps, latents=latents) for latents in budgets}
        self._manifest, self._recipe, self._report = manifest, recipe, report
        work = sum(plan.work(manifest) for plan in self._plans.values())
        self._total = recipe.pictures * (references * self.reference.work(manifest) + 2 * work)
        self._done = 0.0

    def attempt(self, session: Session, latents: int, broken: list[str]) -> Array | None:
        """The pictures at a budget; None and one more fault where they are no pictures."""
        try:
            return self.samples(session, self._plans[latents])
        except PictureError as error:
            broken.append(f"at {latents} latents {session.precision} makes no pictures: {error}")
            return None

    def samples(self, session: Session, plan: Plan, farther: int = 0) -> Array:
        """The pictures of a plan [N, C, S, S], from seeds that are so much farther."""
        recipe, classes = self._recipe, self._manifest.model.num_classes
        labels = [picture * classes // recipe.pictures for picture in range(recipe.pictures)]
        made = []
        for first in range(0, len(labels), BATCH):
            batch = labels[first : first + BATCH]
            step_work = plan.work(self._manifest) * len(batch) / plan.steps

            def advance(_state: Progress, work: float = step_work) -> None:
                self._done += work
                self._report("pictures", min(self._done / self._total, 1.0))

            generation = generate(
                session,
                batch,
                latents=plan.budgets(self._manifest),
                guidance=plan.guidance,
                weak_latents=plan.weak_latents,
                seed=(recipe.seed + farther + first // BATCH) % SEED_LIMIT,
                progress=advance,
            )
            made.append(generation.samples)
        return np.concatenate(made)
