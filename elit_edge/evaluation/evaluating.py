"""The quality table of a bundle: how far each plan's pictures are from those of the reference plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from elit_edge.bundle import Bundle
from elit_edge.bundle_files import sha256_of
from elit_edge.errors import RequestError
from elit_edge.evaluation.features import FeatureNetwork
from elit_edge.evaluation.frechet import frechet_distance
from elit_edge.evaluation.plans import STEPS, Plan, default_latents, reference_plan, table_plans
from elit_edge.evaluation.state import Recipe, State, locked_state
from elit_edge.generation import Progress, generate
from elit_edge.manifest import Manifest
from elit_edge.quality import Band, Cell, QualityTable
from elit_edge.runtimes.contract import Session
from elit_edge.version import __version__

PICTURES = 64
BATCH = 16
"""Pictures made together. Batch i draws its noise from seed + i, so another size makes other pictures."""
RESAMPLES = 2000

Array = npt.NDArray[np.float64]
Report = Callable[[str, float], None]
"""Told the stage and the share of the work that is done, 0..1."""


def evaluate(
    bundle: Bundle,
    *,
    pictures: int = PICTURES,
    features: Path | None = None,
    steps: Sequence[int] = STEPS,
    latents: Sequence[int] | None = None,
    seed: int = 0,
    threads: int | None = None,
    force: bool = False,
    report: Report = lambda _stage, _share: None,
    say: Callable[[str], None] = lambda _words: None,
) -> QualityTable:
    """Measure the table. Every finished cell is kept in the user's cache, and not measured twice.

    Args:
        bundle: an opened bundle.
        pictures: pictures a plan, at least 2; labels are spread evenly over the classes.
        features: an ONNX feature network for the Frechet distance; see `FeatureNetwork`.
        steps: step counts of the grid.
        latents: budgets of the grid; the least and the full one are always in it. None for about eight.
        seed: of the noise; the same pictures for the same seed.
        threads: CPU threads; None leaves it to ONNX Runtime.
        force: measure again what the bundle or the cache has.
        report: progress.
        say: told when the cache could not be used.

    Returns:
        The table; `elit_edge.evaluation.attachment.attach` puts it into the bundle.

    Raises:
        RequestError: settings that no table can be made of, or the same evaluation runs now.
        BudgetError: latents that the model does not have.
        PictureError: a plan whose pictures are not finite or flat.
    """
    manifest, reference = bundle.manifest, reference_plan(bundle.manifest)
    if pictures < 2:
        raise RequestError(f"--pictures {pictures}: an interval needs at least two")
    plans = table_plans(manifest, steps, latents or default_latents(manifest))
    network = open_network(features, manifest, pictures, threads)
    recipe = Recipe(
        elit_edge=__version__,
        model=manifest.model,
        files=manifest.files,
        precision=manifest.precisions[0],
        solver=manifest.sampler.solver,
        guidance=reference.guidance,
        scale=manifest.sampler.scale,
        weak_latents=reference.weak_latents,
        reference_steps=reference.steps,
        pictures=pictures,
        batch=BATCH,
        seed=seed,
        features_sha256=sha256_of(features) if features else None,
    )
    present = manifest.quality
    if present is not None and not force and present == _table_of(recipe, present.cells, present.bands, manifest):
        lacking = set(plans) - _plans_of(present.cells, present.bands, reference)
        if not lacking:
            return present
    with locked_state(recipe) as state, bundle.prepare("onnxruntime", recipe.precision, threads) as session:
        if not force and (fault := state.read()):
            say(f"{fault}: measured again")
        studio = _Studio(session, recipe, plans, report)
        _measure(studio, state, plans, network)
    assert state.measured is not None
    return _table_of(recipe, state.measured.cells, state.measured.bands, manifest)


def interval(values: Array) -> tuple[float, float]:
    """95% bootstrap interval of the mean of [N] values."""
    rows = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(1), (0.025, 0.975))
    return float(low), float(high)


def relative_distances(samples: Array, reference: Array) -> Array:
    """|x - reference| / |reference| of each picture: [N] of [N, C, S, S]."""
    flat, other = samples.reshape(len(samples), -1), reference.reshape(len(reference), -1)
    distances: Array = np.linalg.norm(flat - other, axis=1) / np.linalg.norm(other, axis=1)
    return distances


class _Studio:
    """Makes the pictures of plans, and reports the share of the work that is done."""

    def __init__(self, session: Session, recipe: Recipe, plans: Sequence[Plan], report: Report) -> None:
        self.manifest, self._session, self._recipe, self._report = session.manifest, session, recipe, report
        self.reference = reference_plan(self.manifest)
        self._total = sum(self.work(plan) for plan in (self.reference, *plans))
        self._done = 0.0

    def work(self, plan: Plan) -> int:
        return plan.work(self.manifest) * self._recipe.pictures

    def skip(self, plan: Plan) -> None:
        self._advance(self.work(plan))

    def samples(self, plan: Plan) -> Array:
        """The pictures of a plan: [N, C, S, S]."""
        recipe, classes = self._recipe, self.manifest.model.num_classes
        labels = [picture * classes // recipe.pictures for picture in range(recipe.pictures)]
        made = []
        for first in range(0, recipe.pictures, BATCH):
            batch = labels[first : first + BATCH]
            step_work = plan.work(self.manifest) * len(batch) / plan.steps

            def advance(_state: Progress, work: float = step_work) -> None:
                self._advance(work)

            generation = generate(
                self._session,
                batch,
                latents=plan.budgets(self.manifest),
                guidance=plan.guidance,
                weak_latents=plan.weak_latents,
                seed=recipe.seed + first // BATCH,
                progress=advance,
            )
            made.append(generation.samples)
        return np.concatenate(made)

    def _advance(self, work: float) -> None:
        self._done += work
        self._report("evaluate", min(self._done / self._total, 1.0))


def _measure(studio: _Studio, state: State, plans: Sequence[Plan], network: FeatureNetwork | None) -> None:
    if state.measured is None:
        state.begin(studio.samples(studio.reference))
    else:
        studio.skip(studio.reference)
    assert state.measured is not None
    reference, manifest = state.reference, studio.manifest
    had = _plans_of(state.measured.cells, state.measured.bands, studio.reference)
    wanted = None if network is None else network(shown(reference, manifest))
    for plan in plans:
        if plan in had:
            studio.skip(plan)
            continue
        samples = studio.samples(plan)
        distances = relative_distances(samples, reference)
        mean = float(distances.mean())
        if plan.is_band:
            state.add(Band(steps=plan.steps, latents=plan.latents, start=plan.start, end=plan.end, distance=mean))
            continue
        low, high = interval(distances)
        frechet = None
        if network is not None and wanted is not None:
            frechet = frechet_distance(network(shown(samples, manifest)), wanted)
        state.add(
            Cell(
                steps=plan.steps,
                latents=plan.latents,
                guidance=plan.guidance,
                weak_latents=plan.weak_latents,
                distance=mean,
                low=low,
                high=high,
                frechet=frechet,
            )
        )


def _plans_of(cells: Sequence[Cell], bands: Sequence[Band], reference: Plan) -> set[Plan]:
    """The plans that cells and bands measured."""
    return {
        Plan(steps=cell.steps, latents=cell.latents, guidance=cell.guidance, weak_latents=cell.weak_latents)
        for cell in cells
    } | {
        dataclasses.replace(reference, steps=band.steps, latents=band.latents, start=band.start, end=band.end)
        for band in bands
    }


def _table_of(recipe: Recipe, cells: Sequence[Cell], bands: Sequence[Band], manifest: Manifest) -> QualityTable:
    plan = reference_plan(manifest)
    return QualityTable(
        reference=Cell(
            steps=plan.steps,
            latents=plan.latents,
            guidance=plan.guidance,
            weak_latents=plan.weak_latents,
            distance=0.0,
            low=0.0,
            high=0.0,
            frechet=None if recipe.features_sha256 is None else 0.0,
        ),
        solver=recipe.solver,
        scale=recipe.scale,
        pictures=recipe.pictures,
        seed=recipe.seed,
        features_sha256=recipe.features_sha256,
        cells=tuple(sorted(cells, key=lambda cell: (cell.guidance, cell.weak_latents, cell.steps, cell.latents))),
        bands=tuple(sorted(bands, key=lambda band: (band.steps, band.latents, -band.start))),
    )


def open_network(path: Path | None, manifest: Manifest, pictures: int, threads: int | None) -> FeatureNetwork | None:
    """The network, if one was given.

    Raises:
        RequestError: it cannot be used, or there are too few pictures for it.
    """
    if path is None:
        return None
    model = manifest.model
    network = FeatureNetwork(path, (model.in_channels, model.image_size, model.image_size), threads)
    if 0 < pictures <= network.size:
        raise RequestError(
            f"--pictures {pictures}: a Frechet distance over {network.size} features needs more pictures than that; "
            f"give at least {network.size + 1}"
        )
    return network


def shown(samples: Array, manifest: Manifest) -> Array:
    """As they are shown: pixels end at -1 and 1, latents do not."""
    return samples.clip(-1, 1) if manifest.sample_space == "pixels" else samples
