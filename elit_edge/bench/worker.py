"""`python -m elit_edge.bench.worker TASK`: one runtime at one precision in a process of its own, answers as JSON lines.

There its memory is its own, its threads disturb no other's, and a library that crashes takes nothing with it. What is
found goes out at once, so that an end in the middle loses little.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from elit_edge.bench.figures import LEAST_FOR_P90, quantile
from elit_edge.bench.report import Bin
from elit_edge.bundle_files import BundleFiles
from elit_edge.device.energy import EnergyMeter, energy_meter
from elit_edge.device.pressure import pressure
from elit_edge.device.thermal import read_frequencies, read_thermal
from elit_edge.device.tree import Tree
from elit_edge.profiling.measuring import Work, peak_bytes
from elit_edge.runtimes.contract import Placement, Session
from elit_edge.runtimes.registry import choose

SEED = 20260312
WARM_UPS = 5
LEAST_ROUNDS = 5
ENOUGH_PASSES = 20
"""A budget whose window would hold fewer is slow: then the ends of the ladder and its halves alone are measured."""
TOLD_S = 0.2
BIN_S = 2.0
MOST_BINS_SHARE = 1 / 20
"""Of a sustained run; a short one has shorter bins."""


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to measure; the parent has checked the bundle's digests."""

    folder: str
    runtime: str
    precision: str
    threads: int | None
    seconds: float
    """Window of each budget; with `sustained`, of the whole."""
    sustained: bool


class Share(msgspec.Struct, frozen=True, tag=True):
    """How much is done, 0..1."""

    done: float


class Passes(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Passes at one budget."""

    latents: int
    ms: list[float]
    joules: float | None


class Warm(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """All of one candidate."""

    open_ms: float
    first_ms: float
    passes: list[Passes]
    peak_bytes: int | None


class Placed(msgspec.Struct, frozen=True, tag=True):
    """Where the candidate before this is computed, by its library's own plan."""

    parts: tuple[Placement, ...]


class Binned(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """One more bin of a sustained run."""

    bin: Bin


Word = Share | Warm | Placed | Binned


class Passing:
    """A session at work on noise: passes of one sample, timed and metered."""

    def __init__(self, session: Session, meter: EnergyMeter | None) -> None:
        self._work, self._meter = Work(session), meter

    def once(self, latents: int) -> tuple[float, float]:
        """Milliseconds, and joules where there is a meter."""
        before = self._meter.joules() if self._meter else 0.0
        ms = self._work.pass_ms(latents, 1)
        return max(ms, 1e-6), self._meter.joules() - before if self._meter else 0.0

    def mean_joules(self, joules: list[float]) -> float | None:
        return float(np.mean(joules)) if self._meter else None


def warm(passing: Passing, budgets: tuple[int, ...], window_s: float, tell: Callable[[Word], None]) -> list[Passes]:
    """Passes at each budget, in rounds of a random order so that a drift of the machine meets all alike."""
    if passing.once(budgets[-1])[0] * ENOUGH_PASSES > window_s * 1e3:
        budgets = halves(budgets)
    for _ in range(WARM_UPS):
        for latents in budgets:
            passing.once(latents)
    found: dict[int, list[tuple[float, float]]] = {latents: [] for latents in budgets}
    order, shuffle = list(budgets), random.Random(SEED).shuffle  # noqa: S311 - an order, no secret
    begun = told = time.perf_counter()
    rounds, wanted_s = 0, window_s * len(budgets)
    while rounds < LEAST_ROUNDS or time.perf_counter() - begun < wanted_s:
        shuffle(order)
        for latents in order:
            found[latents].append(passing.once(latents))
        rounds += 1
        if time.perf_counter() - told > TOLD_S:
            told = time.perf_counter()
            tell(Share(min((told - begun) / wanted_s, 1.0)))
    return [
        Passes(latents=latents, ms=[ms for ms, _ in each], joules=passing.mean_joules([joules for _, joules in each]))
        for latents, each in found.items()
    ]


def halves(budgets: tuple[int, ...]) -> tuple[int, ...]:
    """The ends of a ladder, and the rungs nearest to its halves: of 1..16 these are 1, 2, 4, 8 and 16."""
    wanted, value = {budgets[0]}, float(budgets[-1])
    while value > budgets[0]:
        wanted.add(min(budgets, key=lambda latents: abs(latents - value)))
        value /= 2
    return tuple(sorted(wanted))


def sustained(passing: Passing, latents: int, seconds: float) -> Iterator[Bin]:
    """Bins of passes back to back; between two of them the device's state is read, which takes a millisecond or two."""
    tree = Tree(Path("/"))
    for _ in range(WARM_UPS):
        passing.once(latents)
    bin_s = min(BIN_S, seconds * MOST_BINS_SHARE)
    begun = time.perf_counter()
    start = 0.0
    while start < seconds:
        found = [passing.once(latents)]
        while (end := time.perf_counter() - begun) < min(start + bin_s, seconds):
            found.append(passing.once(latents))
        ms = [each for each, _ in found]
        heat = [zone.temperature_c for zone in read_thermal(tree) if zone.temperature_c is not None]
        clocks = [clock.current_mhz for clock in read_frequencies(tree) if clock.current_mhz]
        yield Bin(
            start_s=start,
            end_s=end,
            n=len(ms),
            median_ms=float(np.median(ms)),
            p90_ms=quantile(ms, 0.9, LEAST_FOR_P90),
            joules=passing.mean_joules([joules for _, joules in found]),
            pressure=pressure().level,
            hottest_c=max(heat, default=None),
            mean_mhz=float(np.mean(clocks)) if clocks else None,
        )
        start = time.perf_counter() - begun


def work(task: Task, tell: Callable[[Word], None]) -> None:
    """Do a task in this process."""
    files = BundleFiles.checked_before(Path(task.folder))
    budgets = files.manifest.budgets
    chosen = choose(task.runtime)
    begun = time.perf_counter()
    with chosen.prepare(files, task.precision, task.threads) as session:
        opened = time.perf_counter()
        meter = energy_meter()
        ready = time.perf_counter()
        passing = Passing(session, meter)
        passing.once(budgets[-1])
        first_ms = (time.perf_counter() - ready) * 1e3
        if task.sustained:
            for each in sustained(passing, budgets[-1], task.seconds):
                tell(Binned(bin=each))
            return
        passes = warm(passing, budgets, task.seconds, tell)
        tell(Warm(open_ms=(opened - begun) * 1e3, first_ms=first_ms, passes=passes, peak_bytes=peak_bytes()))
        if parts := session.placement():  # after all that is measured: it costs time and memory
            tell(Placed(parts))


def main(task: str) -> None:
    """Answer on stdout; what libraries print goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the parent, which then ends this process
    answers: BinaryIO = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(word: Word) -> None:
        answers.write(msgspec.json.encode(word) + b"\n")
        answers.flush()

    work(msgspec.json.decode(task, type=Task), tell)


if __name__ == "__main__":
    main(sys.argv[1])
