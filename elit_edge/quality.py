"""What a bundle's pictures lose at each plan: the measured table, and the loss of any plan read from it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from elit_edge.model_config import Count, Digest, Positive
from elit_edge.sampling import STOCHASTIC_END, GuidanceKind, Solver

Distance = Annotated[float, msgspec.Meta(ge=0)]
FloatVector = npt.NDArray[np.float64]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Cell(_Struct, frozen=True, kw_only=True):
    """How far the pictures of one plan are from the reference's: the same budget at every step."""

    steps: Positive
    latents: Positive
    guidance: GuidanceKind
    weak_latents: Positive
    distance: Distance
    """Mean over pictures of |x - reference| / |reference|, each pair from the same noise."""
    low: Distance
    high: Distance
    """95% bootstrap interval of the mean."""
    frechet: Distance | None
    """Frechet distance of the two sets in the feature space; None where no feature network was given."""


class Band(_Struct, frozen=True, kw_only=True):
    """A small budget in a part of the run alone, the full one elsewhere: which times need their latents."""

    steps: Positive
    latents: Positive
    """Kept while end < t <= start."""
    start: Annotated[float, msgspec.Meta(gt=0, le=1)]
    end: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    distance: Distance


class QualityTable(_Struct, frozen=True, kw_only=True):
    """Distances to the reference plan's pictures, paired by noise. Made by `elit-edge evaluate`."""

    reference: Cell
    """The reference plan; its distance to itself is 0."""
    solver: Solver
    scale: Annotated[float, msgspec.Meta(ge=0)]
    pictures: Count
    seed: Count
    features_sha256: Digest | None
    origin: Literal["measured", "published"] = "measured"
    cells: Annotated[tuple[Cell, ...], msgspec.Meta(min_length=1)]
    bands: tuple[Band, ...] = ()


Variant = tuple[GuidanceKind, int]
"""Guidance and the budget of its weak pass."""

LEAST = 1e-12
LEAST_WEIGHT = 0.05
"""No part of a run is free, whatever the noise of a band's measurement says."""


class Loss:
    """The loss of any plan, read from a table.

    Squared distances add up over a run. A step of length dt at time t at J latents loses
    dt · (Q(n, P) + w(t) · (Q(n, J) - Q(n, P))) with n = 1 / dt, where Q(n, J) is the squared distance of the plan of n
    steps at J latents, and w(t), of mean 1, says how much a small budget costs at that time (from the table's bands; 1
    where it has none). For an even plan that is the table's own cell.
    """

    def __init__(self, table: QualityTable) -> None:
        self.table = table
        positive = [cell.distance for cell in table.cells if cell.distance > 0]
        floor = (
            min(positive, default=1.0) / 2
        )  # a plan that is the reference itself has a distance of 0, and no logarithm
        self._grids: dict[Variant, tuple[FloatVector, FloatVector, npt.NDArray[np.float64]]] = {}
        for variant in dict.fromkeys((cell.guidance, cell.weak_latents) for cell in table.cells):
            self._grids[variant] = _grid([c for c in table.cells if (c.guidance, c.weak_latents) == variant], floor)
        edges, weights = _band_weights(self)
        self._edges, self._until = edges, np.append(0.0, np.cumsum(weights * np.diff(edges)))

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple(self._grids)

    @property
    def step_counts(self) -> tuple[int, int]:
        """The fewest steps that a plan can be judged at, and the most: a power law leads below what was measured."""
        counts = sorted({cell.steps for cell in self.table.cells})
        return (1 if len(counts) > 1 else counts[0]), counts[-1]

    def measured_latents(self, variant: Variant) -> tuple[int, int]:
        """The least and the most latents that were measured; beyond them nothing is known."""
        _, budgets, _ = self._grids[variant]
        return int(budgets[0]), int(budgets[-1])

    def squared(self, variant: Variant, density: float, latents: npt.ArrayLike) -> FloatVector:
        """Q of each budget at a density of steps (steps a unit of time: n for an even plan of n steps)."""
        steps, budgets, logs = self._grids[variant]
        return np.exp(np.interp(np.asarray(latents, np.float64), budgets, _at_density(steps, logs, density)))

    def weights(self, grid: npt.ArrayLike) -> FloatVector:
        """How much a small budget costs in each step, against the mean of a run: [steps] of times [steps + 1]."""
        times = np.asarray(grid, np.float64)
        until = np.interp(times, self._edges, self._until)
        weights: FloatVector = (until[:-1] - until[1:]) / (times[:-1] - times[1:])
        return weights

    def of(self, variant: Variant, grid: npt.ArrayLike, latents: Sequence[int]) -> float:
        """The distance that a plan's pictures are expected to have.

        Args:
            variant: one of `variants`.
            grid: times from 1 down to 0, [steps + 1].
            latents: the budget of each step, [steps].
        """
        return self.of_steps(grid, [(variant, budget) for budget in latents])

    def of_steps(self, grid: npt.ArrayLike, steps: Sequence[tuple[Variant, int]]) -> float:
        """The same for steps that differ in their guidance, too: the variant and budget of each."""
        times = np.asarray(grid, np.float64)
        full = max(cell.latents for cell in self.table.cells)
        total = 0.0
        lengths = times[:-1] - times[1:]
        densities = _densities(self.table.solver, times)
        for length, weight, density, (variant, budget) in zip(
            lengths, self.weights(times), densities, steps, strict=True
        ):
            best, found = self.squared(variant, density, [full, budget])
            total += length * (best + weight * (found - best))
        return float(np.sqrt(max(total, 0.0)))


def _densities(solver: Solver, times: FloatVector) -> FloatVector:
    """The number of steps of the even plan that each step would belong to: [steps] of times [steps + 1]."""
    lengths = times[:-1] - times[1:]
    if solver != "euler-maruyama":
        density: FloatVector = 1 / lengths
        return density
    # its last step is short whatever their number, and the others share the rest
    return np.where(times[:-1] > STOCHASTIC_END, 1 + (1 - STOCHASTIC_END) / lengths, len(lengths))


def _grid(cells: list[Cell], floor: float) -> tuple[FloatVector, FloatVector, npt.NDArray[np.float64]]:
    """log steps [N], latents [J], log of the squared distance [N, J]."""
    steps = sorted({cell.steps for cell in cells})
    budgets = sorted({cell.latents for cell in cells})
    known = {(cell.steps, cell.latents): 2 * float(np.log(max(cell.distance, floor))) for cell in cells}
    logs = np.array([[_known_or_like(known, count, budget) for budget in budgets] for count in steps])
    return np.log(np.array(steps, np.float64)), np.array(budgets, np.float64), logs


def _known_or_like(known: dict[tuple[int, int], float], steps: int, latents: int) -> float:
    """A cell; where it was not measured, as far from its row's nearest cell as in the nearest row that has both."""
    if (steps, latents) in known:
        return known[steps, latents]
    here = sorted((each for count, each in known if count == steps), key=lambda each: abs(each - latents))
    rows = sorted((count for count, each in known if each == latents), key=lambda count: abs(np.log(count / steps)))
    for row in rows:
        for each in here:
            if (row, each) in known:
                return known[steps, each] + known[row, latents] - known[row, each]
    return known[steps, here[0]]


def _at_density(steps: FloatVector, logs: npt.NDArray[np.float64], density: float) -> FloatVector:
    """The row at a density: a power law between neighbours and below the first, constant above the last."""
    wanted = min(float(np.log(density)), float(steps[-1]))
    if len(steps) == 1:
        row: FloatVector = logs[0]
        return row
    after = int(np.clip(np.searchsorted(steps, wanted), 1, len(steps) - 1))
    share = (wanted - steps[after - 1]) / (steps[after] - steps[after - 1])
    between: FloatVector = logs[after - 1] + share * (logs[after] - logs[after - 1])
    return between


def _band_weights(loss: Loss) -> tuple[FloatVector, FloatVector]:
    """Edges of time, ascending, and the weight between each two; of mean 1 over the run."""
    bands = loss.table.bands
    edges = sorted({edge for band in bands for edge in (band.start, band.end)} | {0.0, 1.0})
    if not bands:
        return np.array(edges), np.ones(1)
    reference = loss.table.reference
    variant = (reference.guidance, reference.weak_latents)
    rises = np.zeros(len(edges) - 1)
    for band in bands:
        full, small = loss.squared(variant, band.steps, [reference.latents, band.latents])
        rise = max(band.distance**2 - full, 0.0) / max(small - full, LEAST)
        inside = [band.end <= low and high <= band.start for low, high in itertools.pairwise(edges)]
        rises += np.where(inside, rise / (band.start - band.end), 0.0)
    lengths = np.diff(edges)
    mean = float((rises * lengths).sum())
    weights = np.maximum(rises / mean, LEAST_WEIGHT) if mean > 0 else np.ones(len(lengths))
    return np.array(edges), weights / float((weights * lengths).sum())


PUBLISHED_STEPS = (10, 20, 40)
PUBLISHED_FID = {
    1.0: (28.8, 16.3, 12.15),
    0.75: (29.4, 16.6, 12.5),
    0.5: (30.0, 17.1, 12.95),
    0.25: (32.1, 18.7, 14.2),
    0.125: (35.8, 21.6, 16.8),
}
"""FID10K by share of the latents and steps, of ELIT on ImageNet at 256 px. Source: arXiv 2603.12245, figure 8, read off
the plot."""


def published_table(latents_per_group: int, guidance: GuidanceKind, weak_latents: int, scale: float) -> QualityTable:
    """What stands in for a bundle's own table until it is measured: the paper's figures, as squared distances.

    They order plans by the paper's model; as distances of this bundle's pictures they mean nothing.
    """
    cells: dict[tuple[int, int], float] = {}
    for share, row in PUBLISHED_FID.items():  # from the full budget down: where two shares are one budget, the larger
        for steps, fid in zip(PUBLISHED_STEPS, row, strict=True):
            cells.setdefault((steps, max(1, round(latents_per_group * share))), float(np.sqrt(fid)))

    def cell(steps: int, latents: int, distance: float) -> Cell:
        return Cell(
            steps=steps,
            latents=latents,
            guidance=guidance,
            weak_latents=weak_latents,
            distance=distance,
            low=distance,
            high=distance,
            frechet=None,
        )

    return QualityTable(
        reference=cell(PUBLISHED_STEPS[-1], latents_per_group, 0.0),
        solver="euler",
        scale=scale,
        pictures=0,
        seed=0,
        features_sha256=None,
        origin="published",
        cells=tuple(cell(*plan, distance) for plan, distance in cells.items()),
    )
