"""A bundle's engines against PyTorch, where this machine has what they run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import ElitEdgeError, ParityError
from elit_edge.export.verify import Cases, gate_db, session_parities
from elit_edge.runtimes.contract import Missing
from elit_edge.runtimes.registry import all_runtimes, state_of, words


@dataclass(frozen=True)
class EngineParity:
    """How near the engines of one library and precision are to PyTorch."""

    library: str
    precision: str
    psnr_db: float | None
    """Of the worst state; None: they were not run."""
    reason: str | None
    """Why they were not."""


def verify_engines(
    files: BundleFiles, cases: Sequence[Cases], report: Callable[[float], None] = lambda _: None
) -> tuple[EngineParity, ...]:
    """Hold every engine that opens here to the gate of its precision.

    Raises:
        ParityError: an engine is too far from the model; the message names the worst case.
    """
    found = []
    pairs = dict.fromkeys((engine.library, engine.precision) for engine in files.manifest.engines)
    for library, precision in pairs:
        runtime = all_runtimes()[library]
        state = state_of(runtime)
        if isinstance(state, Missing):
            found.append(EngineParity(library, precision, None, words(state)))
            continue
        try:
            session = runtime.prepare(files, precision, None)
        except ElitEdgeError as error:  # made for another device, most often
            found.append(EngineParity(library, precision, None, str(error)))
            continue
        with session:
            worst = min(session_parities(session, cases, report), key=lambda parity: parity.psnr_db)
        gate = gate_db(files, precision)
        if not worst.psnr_db >= gate:
            raise ParityError(
                f"the {precision} engines for {library} are {worst.psnr_db:.1f} dB from PyTorch at {worst.latents} "
                f"latents, t = {worst.t:.2f}, label {worst.label}, and the gate is {gate:g} dB; compile them again"
            )
        found.append(EngineParity(library, precision, worst.psnr_db, None))
    return tuple(found)
