"""`python -m elit_edge.profiling.turns`: passes of several runtimes and precisions in turn, in one process.

A machine's speed drifts by more than what tells them apart; in turn, the drift is the same for all. Each begins after
a pause that lets the others' threads fall asleep.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from elit_edge.bundle_files import BundleFiles
from elit_edge.manifest import decode, encode
from elit_edge.profiling.measuring import PAUSE_S, Work
from elit_edge.profiling.own_process import WorkerFailed, answer_of
from elit_edge.runtimes.registry import choose

ROUNDS = 24
EACH_S = 3.0
"""Time for each of them, after which no further round begins."""

Contestant = tuple[str, str]
"""Runtime and precision."""
Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Turns:
    """What the passes took, and who could not take part."""

    latents: tuple[int, ...]
    """Least, middle and full budget."""
    pass_ms: dict[Contestant, tuple[float, ...]]
    """Of one pass for one sample at each of them, see `typical_ms`."""
    failed: dict[Contestant, str]
    """Why, in the words of the one that failed."""


def few_budgets(budgets: Sequence[int]) -> tuple[int, ...]:
    """The least, a middle one and the full one."""
    return tuple(sorted({budgets[0], budgets[len(budgets) // 2], budgets[-1]}))


def passes_in_turn(
    files: BundleFiles, contestants: Sequence[Contestant], threads: int | None, rounds: int = ROUNDS
) -> Times:
    """Times in milliseconds [rounds, contestants, budgets] at the few budgets, one sample a pass.

    Each round begins with a pass that does not count, and so does the whole with a round. Where time runs out there are
    fewer rounds, at least one if any was asked for.
    """
    few = few_budgets(files.manifest.budgets)
    with ExitStack() as stack:
        works = [Work(stack.enter_context(choose(name).prepare(files, how, threads))) for name, how in contestants]
        found: list[list[list[float]]] = []
        begun = time.perf_counter()
        for turn in range(rounds + 1):
            found.append([])
            for work in works:
                time.sleep(PAUSE_S)
                work.pass_ms(few[-1], 1)
                found[-1].append([work.pass_ms(latents, 1) for latents in few])
            if turn and time.perf_counter() - begun > EACH_S * len(works):
                break
    return np.array(found[1:]).reshape(-1, len(works), len(few))


def typical_ms(times: Times) -> Times:
    """The median over rounds [contestants, budgets], after what a round was slower in all was taken off.

    On a busy machine ratios of the same graphs scattered by 1.3%, those of plain medians by 2.2%.
    """
    logs = np.log(times)
    drift = np.median(logs - np.median(logs, axis=0), axis=(1, 2), keepdims=True)
    found: Times = np.exp(np.median(logs - drift, axis=0))
    return found


def turns_of(files: BundleFiles, contestants: Sequence[Contestant], threads: int | None) -> Turns:
    """Measure in a process of its own. Where that fails, whoever fails alone too is left out.

    Args:
        files: a bundle whose digests were checked, or one that is being made; its manifest need not be on the disk.
        contestants: each of them ready here.
        threads: CPU threads of one call; None leaves it to the runtimes.
    """
    few = few_budgets(files.manifest.budgets)

    def measured(sound: Sequence[Contestant], failed: dict[Contestant, str]) -> Turns:
        rows = typical_ms(_answer(files, sound, threads, ROUNDS)).tolist()
        return Turns(few, {each: tuple(row) for each, row in zip(sound, rows, strict=True)}, failed)

    try:
        return measured(contestants, {})
    except WorkerFailed as error:
        together = str(error)
    alone = {each: _fault(files, each, threads) for each in contestants}
    failed = {each: fault for each, fault in alone.items() if fault is not None}
    sound = [each for each in contestants if each not in failed]
    try:
        if failed and sound:
            return measured(sound, failed)
    except WorkerFailed as error:
        together = str(error)
    return Turns(few, {}, dict.fromkeys(contestants, together) | failed)


def _fault(files: BundleFiles, contestant: Contestant, threads: int | None) -> str | None:
    """Why it cannot compute these graphs even alone."""
    try:
        _answer(files, [contestant], threads, rounds=0)
    except WorkerFailed as error:
        return str(error)
    return None


def _answer(files: BundleFiles, contestants: Sequence[Contestant], threads: int | None, rounds: int) -> Times:
    with tempfile.TemporaryDirectory(prefix="elit-edge-") as folder:
        manifest = Path(folder, "manifest.json")
        manifest.write_bytes(encode(files.manifest))
        names = " ".join(f"{name}:{how}" for name, how in contestants)
        settings = (str(files.folder), str(manifest), names, str(threads or 0), str(rounds))
        try:
            answer = answer_of("elit_edge.profiling.turns", *settings)
        except WorkerFailed as error:
            raise WorkerFailed(str(error).replace(f"{files.folder}/", "")) from error
    return np.array(msgspec.json.decode(answer, type=list[list[list[float]]]))


def main(folder: str, manifest: str, contestants: str, threads: str, rounds: str, answer: str) -> None:
    """Write the times to the file `answer`; `contestants`: runtime:precision, with blanks between."""
    files = BundleFiles(Path(folder), decode(Path(manifest).read_bytes(), manifest))
    named = [(name, how) for name, _, how in (each.rpartition(":") for each in contestants.split())]
    times = passes_in_turn(files, named, int(threads) or None, int(rounds))
    Path(answer).write_bytes(msgspec.json.encode(times.tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
