"""The parity gate of Core ML packages: condition and velocity as saved, evaluated, against PyTorch on trajectories.

Two questions, apart from each other. Is the graph right? Then it computes, in exact numbers, what PyTorch computes with
the weights that stand in the package, whatever a compression made of them. Are the numbers near enough? Then they are,
rounded as they are stored, within the variant's gate of the model's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elit_edge.errors import ParityError
from elit_edge.export.to_coreml.evaluated import Packages, arrays_in, evaluated_session
from elit_edge.export.to_coreml.weights import model_of, shapes_of
from elit_edge.export.verify import Cases
from elit_edge.manifest import CoreMlFunction, CoreMlParity, Manifest
from elit_edge.parity import EXACT_DB, GATE_DB, psnr_db, relative_l2
from elit_edge.runtimes.contract import FloatArray, Session
from elit_edge.runtimes.reference.session import ModelSession

GRAPH_GATE = 2e-6
"""Greatest relative RMS, all exact, to PyTorch with the packages' own weights, whatever the variant. Right packages
measured 6e-7; the exact form of GELU in place of the tanh form gives 5e-5."""
GATES: dict[str, dict[str, float]] = {
    "fp32": {"exact": 1e-6, "stored": 1e-6},
    "fp16": {"stored": 3e-3},
}
"""Greatest relative RMS to the model of a variant that keeps its weights; one that compresses them has the gate of
`parity.GATE_DB`. Rounding weights to float16 costs 2.5e-4 on the sample and 1e-3 on a random model of 140 million."""
ROUNDING = "w8a8"
"""The variant that rounds what enters and leaves its products."""
EXACT_ROWS = 3
"""Rows that are computed in exact numbers, too: a pair and a single one."""

Report = Callable[[float], None]


@dataclass
class _Worst:
    """The farthest from PyTorch that any row came."""

    cases: int = 0
    relative: float = 0.0
    psnr_db: float = EXACT_DB
    latents: int = 0
    """Where."""

    def take(self, found: FloatArray, wanted: FloatArray, latents: int) -> None:
        for value, right in zip(found, wanted, strict=True):
            self.cases += 1
            relative = relative_l2(value, right)
            if math.isnan(relative):  # the worst, whatever comes after it
                relative = math.inf
            if relative > self.relative:
                self.relative, self.latents = relative, latents
            self.psnr_db = min(self.psnr_db, psnr_db(value, right))


def check(
    manifest: Manifest,
    folder: Path,
    functions: Sequence[CoreMlFunction],
    variant: str,
    cases: Sequence[Cases],
    report: Report = lambda _: None,
) -> CoreMlParity:
    """Hold packages to the gate of their variant.

    Args:
        manifest: of the bundle that they are made from.
        folder: what the functions' packages are relative to.
        functions: every one of them.
        variant: how their numbers are stored.
        cases: what PyTorch gives at every budget of the functions.
        report: told the share done, 0..1.

    Returns:
        What was found; without the head-room, which no check measures.

    Raises:
        ParityError: too far from the model.
        PackageError: a package is damaged, or holds what cannot be evaluated.
    """
    packages = Packages(folder)
    worst = {name: _Worst() for name in ("graph", "exact", "stored")}
    # one after the other, since each decompresses the weights
    _compare_exact(manifest, packages, functions, variant, cases, worst, lambda share: report(share / 2))
    _compare_stored(manifest, packages, functions, variant, cases, worst, lambda share: report((1 + share) / 2))
    _hold(variant, worst)
    return CoreMlParity(
        cases=sum(each.cases for each in worst.values()),
        graph=float(f"{worst['graph'].relative:.2e}"),
        exact=float(f"{worst['exact'].relative:.2e}"),
        stored=float(f"{worst['stored'].relative:.2e}"),
        psnr_db=round(worst["stored"].psnr_db, 1),
        headroom=None,
    )


def _compare_exact(
    manifest: Manifest,
    packages: Packages,
    functions: Sequence[CoreMlFunction],
    variant: str,
    cases: Sequence[Cases],
    worst: Mapping[str, _Worst],
    report: Report,
) -> None:
    """In exact numbers, to PyTorch with the packages' own weights and to the model."""
    few = slice(-EXACT_ROWS, None)
    session = unrounded = evaluated_session(manifest, packages, functions, variant, "exact")
    if variant == ROUNDING:
        unrounded = evaluated_session(manifest, packages, functions, variant, "unrounded")
    graphs = []
    for done, each in enumerate(cases):
        report(done / len(cases))
        exact = _velocity(session, each, few)
        worst["exact"].take(exact, each.velocity[few], each.latents)
        graphs.append(exact if unrounded is session else _velocity(unrounded, each, few))
    # over the arrays that the open session holds
    own = ModelSession(model_of(manifest.model, arrays_in(packages, functions, shapes_of(manifest.model))), manifest)
    for each, found in zip(cases, graphs, strict=True):
        worst["graph"].take(found, _velocity(own, each, few), each.latents)


def _compare_stored(
    manifest: Manifest,
    packages: Packages,
    functions: Sequence[CoreMlFunction],
    variant: str,
    cases: Sequence[Cases],
    worst: Mapping[str, _Worst],
    report: Report,
) -> None:
    """Rounded as a device stores them, to the model."""
    session = evaluated_session(manifest, packages, functions, variant, "stored")
    for done, each in enumerate(cases):
        report(done / len(cases))
        # whole batches take the functions of the largest batch, one row those of the least
        for rows in (slice(None), slice(1)):
            worst["stored"].take(_velocity(session, each, rows), each.velocity[rows], each.latents)


def _velocity(session: Session, cases: Cases, rows: slice) -> FloatArray:
    return session.velocity(cases.x[rows], cases.t[rows], cases.y[rows], cases.latents)


def _hold(variant: str, worst: Mapping[str, _Worst]) -> None:
    graph, stored = worst["graph"], worst["stored"]
    if not graph.relative <= GRAPH_GATE:
        raise ParityError(
            f"the Core ML packages in {variant} are {graph.relative:.1e} (relative RMS, exact) from PyTorch with their "
            f"own weights at {graph.latents} latents, and the gate is {GRAPH_GATE:.0e}; they do not compute what this "
            "model does"
        )
    reason = "it does not bear this precision: --precision fp32"
    if variant == "fp32":
        reason = "they do not hold its weights"
    for mode, gate in GATES.get(variant, {}).items():
        if not worst[mode].relative <= gate:
            raise ParityError(
                f"the Core ML packages in {variant} are {worst[mode].relative:.1e} (relative RMS, {mode}) from this "
                f"model in PyTorch at {worst[mode].latents} latents, and the gate is {gate:.0e}; {reason}"
            )
    gate_db = GATE_DB[variant]
    if not stored.psnr_db >= gate_db:
        raise ParityError(
            f"the Core ML packages in {variant} are {stored.psnr_db:.1f} dB from PyTorch, and the gate is "
            f"{gate_db:g} dB; the model does not bear this compression: --compress int8 is the gentlest"
        )
