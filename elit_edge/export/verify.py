"""The parity gate: every graph of a bundle against PyTorch, on states of real trajectories.

Noise alone would be a weak test: late states look different. For each budget a short trajectory of the torch model is
followed, for a class and for the null class; at each of its times every graph must give the same velocity. The torch
model goes first and gives its memory back; then one graph is open at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from elit_edge.budget import flops
from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import ParityError, RuntimeUnavailable
from elit_edge.manifest import Graph, Manifest, Verification, WorstCase
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.noise import NoiseStream
from elit_edge.parity import EXACT_DB, GATE_DB, psnr_db, relative_l2
from elit_edge.profiling.choosing import candidates_of
from elit_edge.runtimes.contract import FloatArray, IntArray, Session
from elit_edge.runtimes.onnxruntime_.session import open_graph
from elit_edge.runtimes.reference.session import ModelSession
from elit_edge.runtimes.registry import choose
from elit_edge.sampling import times

TRAJECTORY_STEPS = 4
ROWS_A_CALL = PAIR = 2
"""A class and the null class."""
REFUSED_ROOM_DB = 3.0

Feeds = dict[str, npt.NDArray[Any]]
Advance = Callable[[int, int], None]
"""Told that so many samples were computed at so many latents a group."""
SEED = 20260312


@dataclass(frozen=True)
class Cases:
    """States of one budget's trajectories and the velocities that PyTorch gives there."""

    latents: int
    x: FloatArray
    t: FloatArray
    y: IntArray
    modulations: FloatArray
    velocity: FloatArray
    samples: FloatArray
    """Where the trajectories end: one for the class, one for the null class."""


@dataclass(frozen=True)
class Parity:
    """How far one graph is from PyTorch at one state."""

    graph: str
    precision: str
    latents: int
    t: float
    label: int
    psnr_db: float
    relative_l2: float


def trajectory_cases(
    session: ModelSession, latents: int, seed: int = SEED, advance: Advance = lambda _latents, _samples: None
) -> Cases:
    """Follow one class and the null class from noise over a few Euler steps at a budget."""
    model = session.manifest.model
    y = np.array([latents % model.num_classes, model.null_label], np.int64)
    shape = (model.in_channels, model.image_size, model.image_size)
    state = NoiseStream(seed, len(y)).draw(shape)
    grid = times("euler", TRAJECTORY_STEPS)
    found: list[tuple[npt.NDArray[np.float32], float, npt.NDArray[np.float32]]] = []
    for now, after in itertools.pairwise(grid):
        x = state.astype(np.float32)
        v = session.velocity(x, np.full(len(y), now), y, latents)
        found.append((x, float(now), v))
        state = state + (after - now) * v
        advance(latents, len(y))
    t = np.repeat(np.array([t for _, t, _ in found], np.float32), len(y))
    labels = np.tile(y, len(found))
    return Cases(
        latents,
        x=np.concatenate([x for x, _, _ in found]),
        t=t,
        y=labels,
        modulations=session.condition(t, labels),
        velocity=np.concatenate([v for _, _, v in found]),
        samples=state.astype(np.float32),
    )


class _Graphs:
    """The bundle's graphs of one precision on ONNX Runtime, opened one after the other."""

    def __init__(self, files: BundleFiles, precision: str, advance: Advance) -> None:
        self._files, self._advance = files, advance
        self._graphs = [graph for graph in files.manifest.graphs if graph.precision == precision]

    def outputs(self, cases: Sequence[Cases]) -> Iterator[tuple[Graph, Cases, FloatArray, FloatArray]]:
        """Every graph at all cases that it can compute: what it gives there, and what it should give."""
        condition = self._files.manifest.graph("condition", self._graphs[0].precision)
        session = open_graph(self._files, condition, None)
        modulations = {each.latents: _run(session, {"t": each.t, "y": each.y}) for each in cases}
        del session
        for each in cases:
            yield condition, each, modulations[each.latents], each.modulations
        for graph in self._graphs:
            able = [each for each in cases if graph.latents in (None, each.latents)]
            if graph.role == "condition" or not able:
                continue
            session = open_graph(self._files, graph, None)
            for each in able:
                rows = _rows(graph, each)
                states = replace(each, x=each.x[rows], t=each.t[rows], y=each.y[rows], velocity=each.velocity[rows])
                found = self._batches(session, graph, states, modulations[each.latents][rows])
                yield graph, states, found, states.velocity
            del session  # or the next one would be opened beside it

    def _batches(
        self, session: ort.InferenceSession, graph: Graph, cases: Cases, modulations: FloatArray
    ) -> FloatArray:
        feeds: Feeds = {"x": cases.x, "t": cases.t, "y": cases.y, "modulations": modulations}
        rows = 1 if graph.latents else ROWS_A_CALL
        found = []
        for at in range(0, len(cases.x), rows):
            batch = {name: values[at : at + rows] for name, values in feeds.items()}
            found.append(_run(session, {**batch, "latents": np.zeros(cases.latents, np.int64)}))
            self._advance(cases.latents, len(found[-1]))
        return np.concatenate(found)


def _rows(graph: Graph, cases: Cases) -> IntArray:
    """The states that a graph is held to. The others are made of the nodes of the velocity for any budget, which is
    held to all: noise with a class and the latest state with the null class have to do."""
    rows = np.arange(len(cases.x))
    return rows if (graph.role, graph.latents) == ("velocity", None) else rows[[0, -1]]


class _Composed:
    """Condition and velocity as a runtime composes them. Those of a calibrated precision hold no other way: smoothing
    moves factors from one to the other, so that the modulations between them are not the model's."""

    def __init__(self, session: Session, advance: Advance) -> None:
        self._session, self._advance = session, advance

    def outputs(self, cases: Sequence[Cases]) -> Iterator[tuple[Graph, Cases, FloatArray, FloatArray]]:
        session = self._session
        graph = session.manifest.graph("velocity", session.precision)
        for each in cases:
            found = session.velocity(each.x, each.t, each.y, each.latents)
            self._advance(each.latents, len(found))
            yield graph, each, found, each.velocity


def _session(files: BundleFiles, precision: str) -> Session:
    """On the first runtime here that takes the precision."""
    candidates, passed_over = candidates_of(files, "auto", precision)
    if not candidates:
        reasons = "; ".join(lost.words() for lost in passed_over)
        raise RuntimeUnavailable(f"no runtime here computes {files.manifest.name} in {precision}: {reasons}")
    return choose(candidates[0][0]).prepare(files, precision, None)


def gate_db(files: BundleFiles, precision: str) -> float:
    """Of a precision that was taken in spite of its verdict: what that says, less what another machine may round."""
    calibration = files.manifest.calibration(precision)
    gate = GATE_DB[precision]
    if calibration is not None and calibration.verdict.faults:
        gate = min(gate, calibration.verdict.worst_psnr_db - REFUSED_ROOM_DB)
    return gate


def _run(session: ort.InferenceSession, feeds: Feeds) -> FloatArray:
    wanted = {value.name: feeds[value.name] for value in session.get_inputs()}
    output: FloatArray = session.run(None, wanted)[0]
    return output


def checked_budgets(manifest: Manifest) -> tuple[int, ...]:
    """Those that have a graph of their own; all of a bundle without such graphs."""
    return tuple(sorted({graph.latents for graph in manifest.graphs if graph.latents})) or manifest.budgets


def reference_cases(
    model: DiffusionTransformer,
    manifest: Manifest,
    budgets: Sequence[int] = (),
    report: Callable[[float], None] = lambda _: None,
) -> tuple[Cases, ...]:
    """What PyTorch gives along the trajectories of each budget.

    Args:
        model: the torch model that the graphs stand for; the caller should hold it no longer than this takes.
        manifest: of the bundle.
        budgets: latents a group; those of `checked_budgets` where none are given.
        report: told the share done, 0..1.
    """
    session = ModelSession(model, manifest)
    budgets = budgets or checked_budgets(manifest)
    advance = _Progress(
        manifest, TRAJECTORY_STEPS * PAIR * sum(_work(manifest, latents) for latents in budgets), report
    )
    return tuple(trajectory_cases(session, latents, advance=advance) for latents in budgets)


def measure(
    files: BundleFiles, cases: Sequence[Cases], precision: str, report: Callable[[float], None] = lambda _: None
) -> Iterator[Parity]:
    """The distance of every graph of a precision from PyTorch, for each budget, time and label.

    Args:
        files: the bundle; its digests need not be there yet.
        cases: of `reference_cases`.
        precision: which graphs.
        report: told the share done, 0..1.
    """
    manifest = files.manifest
    if manifest.calibration(precision) is not None:
        with _session(files, precision) as session:
            yield from session_parities(session, cases, report)
        return
    graphs = [graph for graph in manifest.graphs if graph.precision == precision and graph.role != "condition"]
    work = sum(
        len(_rows(graph, each)) * _work(manifest, each.latents)
        for graph in graphs
        for each in cases
        if graph.latents in (None, each.latents)
    )
    yield from _compared(_Graphs(files, precision, _Progress(manifest, work, report)), cases, precision)


def session_parities(
    session: Session, cases: Sequence[Cases], report: Callable[[float], None] = lambda _: None
) -> Iterator[Parity]:
    """The distance of an open session's velocities from PyTorch, for each budget, time and label."""
    work = sum(len(each.x) * _work(session.manifest, each.latents) for each in cases)
    composed = _Composed(session, _Progress(session.manifest, work, report))
    yield from _compared(composed, cases, session.precision)


def _work(manifest: Manifest, latents: int) -> int:
    """Of one sample's velocity."""
    return flops(manifest.model, latents).velocity


class _Progress:
    """The share of all floating-point operations that are done: budgets differ by a factor of two and more."""

    def __init__(self, manifest: Manifest, work: int, report: Callable[[float], None]) -> None:
        self._manifest, self._work, self._report = manifest, work, report
        self._done = 0

    def __call__(self, latents: int, samples: int) -> None:
        self._done += samples * _work(self._manifest, latents)
        self._report(min(1.0, self._done / self._work))


def _compared(graphs: _Graphs | _Composed, cases: Sequence[Cases], precision: str) -> Iterator[Parity]:
    for graph, given, found, right in graphs.outputs(cases):
        for i, (value, wanted) in enumerate(zip(found, right, strict=True)):
            yield Parity(
                graph=graph.path,
                precision=precision,
                latents=given.latents,
                t=float(given.t[i]),
                label=int(given.y[i]),
                psnr_db=psnr_db(value, wanted),
                relative_l2=relative_l2(value, wanted),
            )


def verify(
    files: BundleFiles, cases: Sequence[Cases], report: Callable[[float], None] = lambda _: None
) -> Verification:
    """Hold every graph of a bundle to its gate.

    Args:
        files: the bundle; its digests need not be there yet.
        cases: of `reference_cases`.
        report: told the share done of each precision, 0..1.

    Raises:
        ParityError: a graph is too far from the model; the message names the worst case.
    """
    precisions = files.manifest.precisions
    found = [parity for precision in precisions for parity in measure(files, cases, precision, report)]
    gates = {precision: gate_db(files, precision) for precision in precisions}
    worst = min(found, key=lambda parity: parity.psnr_db - gates[parity.precision])
    gate = gates[worst.precision]
    if not worst.psnr_db >= gate:
        failed = sum(not parity.psnr_db >= gates[parity.precision] for parity in found)
        raise ParityError(
            f"{failed} of {len(found)} checks fall below {gate:g} dB against PyTorch; the worst is {worst.graph} at "
            f"{worst.latents} latents, t = {worst.t:.2f}, label {worst.label}: {worst.psnr_db:.1f} dB "
            f"(relative L2 {worst.relative_l2:.1e}). The graphs do not compute what this model does"
        )
    return Verification(
        gate_db=gate,
        cases=len(found),
        runtime=f"onnxruntime {ort.__version__}",
        worst=WorstCase(
            graph=worst.graph,
            latents=worst.latents,
            t=round(worst.t, 6),
            label=worst.label,
            psnr_db=round(min(worst.psnr_db, EXACT_DB), 1),
            relative_l2=float(f"{worst.relative_l2:.2e}"),
        ),
    )
