"""What enters each matrix product, by stratum of the calibration set: ranges for the record, rows for the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from elit_edge.calibration.record import Range
from elit_edge.calibration.sites import Site
from elit_edge.calibration.states import CalibrationSet, Stratum
from elit_edge.errors import CalibrationError
from elit_edge.manifest import Role
from elit_edge.runtimes.onnxruntime_.session import inference_session

ROWS = 2560
"""Rows of each activation that are kept, the same number from every stratum as far as it has so many."""
ROWS_A_CALL = 8
CONDITION_TIMES, CONDITION_LABELS = 64, 16
"""The grid that the condition graph is observed on: it needs no trajectory, and a product of it few rows."""

FloatArray = npt.NDArray[np.float32]
Feeds = dict[str, npt.NDArray[Any]]


@dataclass
class Observed:
    """What entered one site."""

    site: Site
    channel_max: FloatArray
    """[inputs]: the greatest magnitude in each channel, over all strata."""
    rows: list[FloatArray] = field(default_factory=list)
    """[R, inputs] of each stratum, evenly spaced over its batch and tokens."""
    latents: list[int] = field(default_factory=list)
    """The budget of each of `rows`; 0 for a site of the condition, which knows none."""
    ranges: list[Range] = field(default_factory=list)

    def weights(self) -> FloatArray:
        """[R]: what makes every stratum's kept rows count alike in a sum of squares, however many they are."""
        most = max(map(len, self.rows))
        return np.concatenate([np.full(len(rows), np.sqrt(most / len(rows)), np.float32) for rows in self.rows])

    def by_budget(self) -> dict[int, FloatArray]:
        """Kept rows [R, inputs] of each budget."""
        budgets = dict.fromkeys(self.latents)
        return {
            budget: np.concatenate([rows for rows, own in zip(self.rows, self.latents, strict=True) if own == budget])
            for budget in budgets
        }


class _Watched:
    """A graph whose products' inputs are outputs too. The file with them stands beside the graph while it is open."""

    def __init__(self, path: Path, role: Role, sites: Sequence[Site], threads: int | None) -> None:
        self.sites = [site for site in sites if site.role == role]
        names = [site.source for site in self.sites]
        model = onnx.load(path, load_external_data=False)
        known = {value.name for value in [*model.graph.input, *model.graph.output]}
        for name in dict.fromkeys(names):
            if name not in known:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
        watched = path.with_name(f"watched-{path.name}")
        try:
            onnx.save(model, watched)
            self._session: ort.InferenceSession = inference_session(watched, threads)
        finally:
            watched.unlink(missing_ok=True)
        self._wanted = [str(model.graph.output[0].name), *dict.fromkeys(names)]

    def run(self, feeds: Feeds) -> tuple[FloatArray, dict[str, FloatArray]]:
        wanted = {value.name for value in self._session.get_inputs()}
        names = [name for name in self._wanted if name not in feeds]
        values = self._session.run(names, {name: value for name, value in feeds.items() if name in wanted})
        found = dict(zip(names, values, strict=True)) | feeds
        return found[self._wanted[0]], {name: found[name] for name in self._wanted[1:]}


def observe(
    condition: Path,
    velocity: Path,
    sites: Sequence[Site],
    states: CalibrationSet,
    threads: int | None,
    report: Callable[[float], None],
) -> dict[str, Observed]:
    """Run the set through the graphs.

    Args:
        condition, velocity: float32 graphs, in a folder that can be written.
        sites: of both graphs.
        states: the set; its strata are kept apart in the ranges, and weigh the same in the rows.
        threads: CPU threads.
        report: told the share done, 0..1.

    Returns:
        What was seen at each site, by its name.

    Raises:
        CalibrationError: a value that is not finite; the message names layer and stratum.
    """
    seen = {site.name: Observed(site, np.zeros(site.inputs, np.float32)) for site in sites}
    first = _Watched(condition, "condition", sites, threads)
    second = _Watched(velocity, "velocity", sites, threads)
    strata = list(states.strata())
    share = max(1, -(-ROWS // len(strata)))
    for t, y in _condition_grid(states):
        _, inputs = first.run({"t": t, "y": y})
        for site in first.sites:
            _keep(seen[site.name], inputs[site.source], None, share)
    for done, (stratum, rows) in enumerate(strata, 1):
        batches = [rows[at : at + ROWS_A_CALL] for at in range(0, len(rows), ROWS_A_CALL)]
        for batch in batches:
            modulations, _ = first.run({"t": states.t[batch], "y": states.y[batch]})
            feeds: Feeds = {"x": states.x[batch], "modulations": modulations}
            feeds["latents"] = np.zeros(stratum.latents, np.int64)
            found, inputs = second.run(feeds)
            for site in second.sites:
                _keep(seen[site.name], inputs[site.source], stratum, -(-share // len(batches)))
            _check_finite(found, "the velocity", stratum)
        report(done / len(strata))
    return seen


def _condition_grid(states: CalibrationSet) -> Iterator[tuple[FloatArray, npt.NDArray[np.int64]]]:
    """Times over the whole run, for the null class and some labels."""
    null = states.recipe.model.null_label
    labels = np.unique(np.linspace(0, null, min(null + 1, CONDITION_LABELS)).round().astype(np.int64))
    for t in np.linspace(1, 0, CONDITION_TIMES, dtype=np.float32):
        yield np.full(len(labels), t, np.float32), labels


def _check_finite(values: FloatArray, what: str, stratum: Stratum | None) -> None:
    if not np.isfinite(values).all():
        where = f"{stratum.latents} latents, t = {stratum.t:.2f}" if stratum else "its conditions"
        raise CalibrationError(
            f"{what} is not finite at {where}; elit-edge verify BUNDLE tells whether the float32 graphs are sound"
        )


def _keep(observed: Observed, values: FloatArray, stratum: Stratum | None, count: int) -> None:
    rows = values.reshape(-1, observed.site.inputs)
    greatest = np.abs(rows).max(0)
    _check_finite(greatest, f"what enters {observed.site.name}", stratum)
    observed.channel_max = np.maximum(observed.channel_max, greatest)
    picked = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    observed.rows.append(rows[picked].astype(np.float32))
    observed.latents.append(stratum.latents if stratum else 0)
    if stratum is None:
        return
    low, high = float(rows.min()), float(rows.max())
    last = observed.ranges[-1] if observed.ranges else None
    if last is not None and Stratum(last.latents, last.t, last.conditional) == stratum:
        observed.ranges.pop()
        low, high = min(low, last.low), max(high, last.high)
    observed.ranges.append(
        Range(latents=stratum.latents, t=stratum.t, conditional=stratum.conditional, low=low, high=high)
    )
