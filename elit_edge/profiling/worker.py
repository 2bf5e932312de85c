"""`python -m elit_edge.profiling.worker`: one runtime measured in a process of its own.

There its memory is its own, its threads disturb no other's, and a library that crashes takes nothing with it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from elit_edge.bundle_files import BundleFiles
from elit_edge.costs import Profile
from elit_edge.device.energy import energy_meter
from elit_edge.noise import NoiseStream
from elit_edge.profiling.measuring import measure
from elit_edge.runtimes.contract import Ready, Session
from elit_edge.runtimes.registry import choose

SEED = 20260312
COMPARED = 512
"""Values of a velocity that are handed back, for comparison with other runtimes."""


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One runtime at one precision, measured."""

    profile: Profile
    velocity: tuple[float, ...]
    """What it computes at a fixed point, thinned."""


def velocity_at_fixed_point(session: Session) -> tuple[float, ...]:
    """The velocity at half the budget from fixed noise at half time."""
    model = session.manifest.model
    x = NoiseStream(SEED, 1).draw((model.in_channels, model.image_size, model.image_size))
    budgets = session.manifest.budgets
    flat = session.velocity(x, np.array([0.5]), np.array([0]), budgets[len(budgets) // 2]).reshape(-1)
    return tuple(float(value) for value in flat[:: max(1, flat.size // COMPARED)])


def measured(files: BundleFiles, runtime: str, precision: str, threads: int | None) -> Measured:
    """Open and measure a runtime in this process."""
    chosen = choose(runtime)
    state = chosen.check()
    begun = time.perf_counter()
    with chosen.prepare(files, precision, threads) as session:
        velocity = velocity_at_fixed_point(session)
        open_ms = (time.perf_counter() - begun) * 1e3
        meter = energy_meter()
        last: list[tuple[float, float]] = []

        def watts() -> float | None:
            if meter is None:
                return None
            now = (time.perf_counter(), meter.joules())
            before = last[-1] if last else None
            last.append(now)
            return None if before is None else (now[1] - before[1]) / (now[0] - before[0])

        version = state.version if isinstance(state, Ready) else ""
        profile = measure(session, version, threads=threads, open_ms=open_ms, watts=watts)
    return Measured(profile=profile, velocity=velocity)


def main(folder: str, runtime: str, precision: str, threads: str, answer: str) -> None:
    """Write what was measured to the file `answer`. The parent has checked the bundle's digests."""
    found = measured(BundleFiles.checked_before(Path(folder)), runtime, precision, int(threads) or None)
    Path(answer).write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
