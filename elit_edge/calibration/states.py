"""Calibration sets: states of the model's own guided trajectories, by budget, time, and class or null class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np

from elit_edge.bundle_files import BundleFiles
from elit_edge.calibration.record import SetSummary
from elit_edge.errors import CalibrationError, RequestError
from elit_edge.model_config import Count, Digest, ModelConfig, Positive
from elit_edge.noise import NoiseStream
from elit_edge.runtimes.contract import FloatArray, IntArray
from elit_edge.sampling import GuidanceKind, times

STEPS, CLASSES, BUDGETS = 8, 4, 5
SEED = 20260707
"""Far from those of evaluations: their noise must be new to what was calibrated."""
FLOAT_BYTES = 4
SET_COPIES = 3
"""Of the states in memory while a set is taken or read, at the peak."""


class SetRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a calibration set depends on."""

    version: Literal[1] = 1
    """Of the way in which states are taken."""
    model: ModelConfig
    source_sha256: Digest
    """`source_digest` of the bundle."""
    solver: Literal["euler"] = "euler"
    """Whatever the bundle's own is: all of them follow the same paths."""
    guidance: GuidanceKind
    scale: Annotated[float, msgspec.Meta(ge=0)]
    weak_latents: Positive
    budgets: tuple[Positive, ...]
    """Latents a group, each once, the least first."""
    steps: Positive
    classes: Positive
    """Labels of one budget's trajectories."""
    seed: Count

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.encoded()).hexdigest()

    @property
    def states(self) -> int:
        """N: every state of every trajectory counts twice, with its label and with the null label."""
        return len(self.budgets) * self.steps * self.classes * 2

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        return self.model.in_channels, self.model.image_size, self.model.image_size

    def encoded(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    def labels(self) -> IntArray:
        """The classes of each budget's trajectories [budgets, classes]; the next budget goes on where one ends."""
        count = len(self.budgets) * self.classes
        return np.arange(count, dtype=np.int64).reshape(-1, self.classes) % self.model.num_classes


@dataclass(frozen=True)
class Stratum:
    """One budget, one time, and whether with labels or with the null label."""

    latents: int
    t: float
    """1 is noise, 0 the picture."""
    conditional: bool


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """N states of trajectories."""

    recipe: SetRecipe
    x: FloatArray
    """[N, C, S, S] float32."""
    t: FloatArray
    """[N] float32."""
    y: IntArray
    """[N] int64, a label or the null label."""
    latents: IntArray
    """[N] int64, the budget of each state's trajectory."""

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe and of x, t, y and latents, little endian."""
        digest = hashlib.sha256(self.recipe.encoded())
        for values, dtype in ((self.x, "<f4"), (self.t, "<f4"), (self.y, "<i8"), (self.latents, "<i8")):
            digest.update(np.asarray(values, dtype).tobytes())
        return digest.hexdigest()

    def summary(self) -> SetSummary:
        """The set in figures; `classes` are those that occur, without the null class."""
        return SetSummary(
            sha256=self.digest,
            states=len(self.x),
            budgets=self.recipe.budgets,
            times=tuple(times("euler", self.recipe.steps)[:-1].tolist()),
            classes=len(set(self.recipe.labels().flat)),
            seed=self.recipe.seed,
        )

    def strata(self) -> Iterator[tuple[Stratum, IntArray]]:
        """Every stratum and the rows in it: budgets from the least, times from noise, labels before the null label."""
        null = self.y == self.recipe.model.null_label
        keys = sorted(set(zip(self.latents.tolist(), (-self.t).tolist(), null.tolist(), strict=True)))
        for latents, minus_t, is_null in keys:
            rows = np.flatnonzero((self.latents == latents) & (self.t == -minus_t) & (null == is_null))
            yield Stratum(latents, -minus_t, conditional=not is_null), rows


def columns(recipe: SetRecipe) -> tuple[FloatArray, IntArray, IntArray]:
    """t, y and latents of every state, each [N], in the order of the file."""
    shape = (len(recipe.budgets), recipe.steps, 2, recipe.classes)
    y = np.full(shape, recipe.model.null_label, np.int64)
    y[:, :, 0] = recipe.labels()[:, None]
    t = times("euler", recipe.steps)[:-1].astype(np.float32)[:, None, None]
    latents = np.array(recipe.budgets, np.int64)[:, None, None, None]
    return np.broadcast_to(t, shape).reshape(-1), y.reshape(-1), np.broadcast_to(latents, shape).reshape(-1)


def source_digest(files: BundleFiles) -> str:
    """What a set was taken from: the digest of the float32 graphs and weights, whatever else the bundle has got since.

    Raises:
        CalibrationError: the bundle has no float32 graphs.
    """
    graphs = [graph for graph in files.manifest.graphs if graph.precision == "fp32"]
    if not graphs:
        raise CalibrationError(
            f"bundle {files.manifest.name} has no fp32 graphs, and calibration starts from them; it has: "
            f"{', '.join(files.manifest.precisions)}. Export it again with --dtype fp32"
        )
    names = {name for graph in graphs for name in (graph.path, graph.weights)}
    entries = {name: files.manifest.files[name] for name in names}
    return hashlib.sha256(msgspec.json.encode(entries, order="sorted")).hexdigest()


def default_recipe(
    files: BundleFiles,
    *,
    budgets: Sequence[int] | None = None,
    steps: int = STEPS,
    classes: int = CLASSES,
    seed: int = SEED,
) -> SetRecipe:
    """What to take from a bundle, guided by its own defaults.

    Args:
        files: the bundle.
        budgets: latents a group; None for the least, the full one, and some between in equal ratios.
        steps: states of a trajectory, at least 1.
        classes: trajectories a budget, at least 1, each of another class while there are as many.
        seed: of the noise.

    Raises:
        RequestError, BudgetError: settings of no set.
        CalibrationError: the bundle has no float32 graphs.
    """
    manifest = files.manifest
    ladder = manifest.budgets
    if budgets is None:
        budgets = [min(ladder, key=lambda rung: abs(rung - j)) for j in np.geomspace(min(ladder), max(ladder), BUDGETS)]
    chosen = tuple(sorted({manifest.check_latents(budget) for budget in budgets}))
    if not chosen or not set(chosen) <= set(ladder):
        raise RequestError(f"budgets {list(budgets)}: the bundle's are {list(ladder)}; give at least one of them")
    if steps < 1 or classes < 1:
        raise RequestError(f"steps = {steps}, classes = {classes}: at least one of each is needed")
    NoiseStream(seed, 0)  # refuses what is no seed
    sampler = manifest.sampler
    return SetRecipe(
        model=manifest.model,
        source_sha256=source_digest(files),
        guidance=sampler.guidance,
        scale=sampler.scale,
        weak_latents=sampler.weak_latents,
        budgets=chosen,
        steps=steps,
        classes=classes,
        seed=seed,
    )
