"""The parity gate: every graph of a bundle against PyTorch, on states of real trajectories.

Noise alone would be a weak test: late states look different. For each budget a short trajectory of the torch model is
followed, for a class and for the null class; at each of its times every graph must give the same velocity.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import ParityError, RuntimeUnavailable
from elit_edge.manifest import Graph, Verification, WorstCase
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
REFUSED_ROOM_DB = 3.0

Feeds = dict[str, npt.NDArray[Any]]
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


def trajectory_cases(session: ModelSession, latents: int, seed: int = SEED) -> Cases:
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
    t = np.repeat(np.array([t for _, t, _ in found], np.float32), len(y))
    labels = np.tile(y, len(found))
    return Cases(
        latents,
        x=np.concatenate([x for x, _, _ in found]),
        t=t,
        y=labels,
        modulations=session.condition(t, labels),
        velocity=np.concatenate([v for _, _, v in found]),
    )


class _OpenGraphs:
    """The bundle's graphs of one precision on ONNX Runtime."""

    def __init__(self, files: BundleFiles, precision: str) -> None:
        self._files = files
        self._graphs = [graph for graph in files.manifest.graphs if graph.precision == precision]
        self._open = {g.path: open_graph(files, g, None) for g in self._graphs if g.latents is None}

    def outputs(self, cases: Cases) -> Iterator[tuple[Graph, FloatArray, FloatArray]]:
        """Every graph that can compute these cases, what it gives, and what it should give."""
        feeds: Feeds = {"x": cases.x, "t": cases.t, "y": cases.y, "latents": np.zeros(cases.latents, np.int64)}
        condition = self._files.manifest.graph("condition", self._graphs[0].precision)
        feeds["modulations"] = _run(self._open[condition.path], feeds)
        yield condition, feeds["modulations"], cases.modulations
        for graph in self._graphs:
            if graph.role == "condition" or graph.latents not in (None, cases.latents):
                continue
            if graph.latents is None:
                yield graph, _run(self._open[graph.path], feeds), cases.velocity
            else:
                yield graph, _run_singly(open_graph(self._files, graph, None), feeds), cases.velocity


class _Composed:
    """Condition and velocity as a runtime composes them. Those of a calibrated precision hold no other way: smoothing
    moves factors from one to the other, so that the modulations between them are not the model's."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def outputs(self, cases: Cases) -> Iterator[tuple[Graph, FloatArray, FloatArray]]:
        session = self._session
        found = session.velocity(cases.x, cases.t, cases.y, cases.latents)
        yield session.manifest.graph("velocity", session.precision), found, cases.velocity


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


def _run_singly(session: ort.InferenceSession, feeds: Feeds) -> FloatArray:
    """A graph of batch 1, a sample at a time."""
    names = [value.name for value in session.get_inputs()]
    rows = [{name: feeds[name][i : i + 1] for name in names} for i in range(len(feeds["x"]))]
    return np.concatenate([session.run(None, row)[0] for row in rows])


def measure(
    files: BundleFiles, model: DiffusionTransformer, precision: str, report: Callable[[float], None]
) -> Iterator[Parity]:
    """The distance of every graph from the model, for each budget, time and label.

    Args:
        files: the bundle; its digests need not be there yet.
        model: the torch model that the graphs stand for.
        precision: which graphs.
        report: told the share done, 0..1.
    """
    reference = ModelSession(model, files.manifest)
    with ExitStack() as stack:
        graphs: _OpenGraphs | _Composed
        if files.manifest.calibration(precision) is None:
            graphs = _OpenGraphs(files, precision)
        else:
            graphs = _Composed(stack.enter_context(_session(files, precision)))
        yield from _compared(graphs, reference, precision, report)


def session_parities(
    session: Session, model: DiffusionTransformer, report: Callable[[float], None]
) -> Iterator[Parity]:
    """The distance of an open session's velocities from the model, for each budget, time and label."""
    yield from _compared(_Composed(session), ModelSession(model, session.manifest), session.precision, report)


def _compared(
    graphs: _OpenGraphs | _Composed, reference: ModelSession, precision: str, report: Callable[[float], None]
) -> Iterator[Parity]:
    budgets = reference.manifest.budgets
    for done, latents in enumerate(budgets, 1):
        cases = trajectory_cases(reference, latents)
        for graph, found, right in graphs.outputs(cases):
            for i, (value, wanted) in enumerate(zip(found, right, strict=True)):
                yield Parity(
                    graph=graph.path,
                    precision=precision,
                    latents=latents,
                    t=float(cases.t[i]),
                    label=int(cases.y[i]),
                    psnr_db=psnr_db(value, wanted),
                    relative_l2=relative_l2(value, wanted),
                )
        report(done / len(budgets))


def verify(
    files: BundleFiles, model: DiffusionTransformer, report: Callable[[float], None] = lambda _: None
) -> Verification:
    """Hold every graph of a bundle to its gate.

    Raises:
        ParityError: a graph is too far from the model; the message names the worst case.
    """
    precisions = files.manifest.precisions
    found = [parity for precision in precisions for parity in measure(files, model, precision, report)]
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
