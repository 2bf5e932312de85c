"""The parity gate of Core ML packages: condition and velocity as saved, evaluated, against PyTorch on trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from elit_edge.errors import ParityError
from elit_edge.export.mil.evaluator import Mode
from elit_edge.export.to_coreml.evaluated import Packages, evaluated_session
from elit_edge.export.verify import trajectory_cases
from elit_edge.manifest import CoreMlFunction, CoreMlParity, Manifest
from elit_edge.parity import EXACT_DB, GATE_DB, psnr_db, relative_l2
from elit_edge.runtimes.contract import FloatArray
from elit_edge.runtimes.reference.session import ModelSession

GATES: dict[str, dict[Mode, float]] = {
    "fp32": {"exact": 1e-6, "stored": 1e-6},
    "fp16": {"exact": 1e-3, "stored": 3e-3},
}
"""Greatest relative RMS of a variant that keeps its weights. Right ones measured 4.6e-7, 1.8e-4 and 9.4e-4; the exact
form of GELU in place of the tanh form gives 5e-5. One that compresses them has the gate of `parity.GATE_DB`."""
EXACT_ROWS = 3
"""Rows that are computed in exact numbers, too: a pair and a single one."""

Report = Callable[[float], None]


@dataclass
class _Worst:
    """The farthest from PyTorch that any row came."""

    cases: int = 0
    relative: float = 0.0
    psnr_db: float = EXACT_DB
    place: str = ""

    def take(self, found: FloatArray, wanted: FloatArray, place: str) -> None:
        for value, right in zip(found, wanted, strict=True):
            self.cases += 1
            relative = relative_l2(value, right)
            if math.isnan(relative):  # the worst, whatever comes after it
                relative = math.inf
            if relative > self.relative:
                self.relative, self.place = relative, place
            self.psnr_db = min(self.psnr_db, psnr_db(value, right))


def check(
    manifest: Manifest,
    folder: Path,
    functions: Sequence[CoreMlFunction],
    variant: str,
    reference: ModelSession,
    report: Report = lambda _: None,
) -> CoreMlParity:
    """Hold packages to the gate of their variant.

    Args:
        manifest: of the bundle that they are made from.
        folder: what the functions' packages are relative to.
        functions: every one of them.
        variant: how their numbers are stored.
        reference: the torch model.
        report: told the share done, 0..1.

    Returns:
        What was found; without the head-room, which no check measures.

    Raises:
        ParityError: too far from the model.
        PackageError: a package is damaged, or holds what cannot be evaluated.
    """
    modes: tuple[Mode, ...] = ("exact", "stored")
    packages = Packages(folder)
    sessions = {mode: evaluated_session(manifest, packages, functions, variant, mode) for mode in modes}
    worst = {mode: _Worst() for mode in modes}
    budgets = sorted({function.latents for function in functions if function.latents})
    for done, latents in enumerate(budgets):
        report(done / len(budgets))
        cases = trajectory_cases(reference, latents)
        rows = np.arange(len(cases.x))
        # whole batches take the functions of the largest batch, one row those of the least
        parts: list[tuple[Mode, npt.NDArray[np.int64]]] = [
            ("exact", rows[-EXACT_ROWS:]),
            ("stored", rows),
            ("stored", rows[:1]),
        ]
        for mode, chosen in parts:
            found = sessions[mode].velocity(cases.x[chosen], cases.t[chosen], cases.y[chosen], latents)
            worst[mode].take(found, cases.velocity[chosen], f"{latents} latents, {mode}")
    _hold(variant, worst)
    return CoreMlParity(
        cases=sum(each.cases for each in worst.values()),
        exact=float(f"{worst['exact'].relative:.2e}"),
        stored=float(f"{worst['stored'].relative:.2e}"),
        psnr_db=round(worst["stored"].psnr_db, 1),
        headroom=None,
    )


def _hold(variant: str, worst: dict[Mode, _Worst]) -> None:
    for mode, gate in GATES.get(variant, {}).items():
        if not worst[mode].relative <= gate:
            raise ParityError(
                f"the Core ML packages in {variant} are {worst[mode].relative:.1e} (relative RMS) from PyTorch at "
                f"{worst[mode].place}, and the gate is {gate:.0e}; they do not compute what this model does"
            )
    gate_db = GATE_DB[variant]
    if not worst["stored"].psnr_db >= gate_db:
        raise ParityError(
            f"the Core ML packages in {variant} are {worst['stored'].psnr_db:.1f} dB from PyTorch, and the gate is "
            f"{gate_db:g} dB; the model does not bear this compression: --compress int8 is the gentlest"
        )
