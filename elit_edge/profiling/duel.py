"""`python -m elit_edge.profiling.duel`: two runtimes side by side, where their profiles are too close to call.

Profiles are measured one after the other, and a machine's speed drifts in between. Here both run in turn, each after a
pause that lets the other's threads fall asleep.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from elit_edge.bundle_files import BundleFiles
from elit_edge.profiling.measuring import PAUSE_S, Work
from elit_edge.runtimes.registry import choose

ROUNDS = 9
DUEL_S = 6.0
"""Time for the rounds after which no further one begins."""


def ladder_ratio(files: BundleFiles, first: tuple[str, str], second: tuple[str, str], threads: int | None) -> float:
    """Time of the first (runtime, precision) over that of the second, alone at least, middle and full budget."""
    budgets = files.manifest.budgets
    few = sorted({budgets[0], budgets[len(budgets) // 2], budgets[-1]})
    with (
        choose(first[0]).prepare(files, first[1], threads) as one,
        choose(second[0]).prepare(files, second[1], threads) as other,
    ):
        works = (Work(one), Work(other))
        logs: list[float] = []
        begun = time.perf_counter()
        for turn in range(ROUNDS):
            found = []
            for work in works:
                time.sleep(PAUSE_S)
                work.pass_ms(few[-1], 1)
                found.append([work.pass_ms(latents, 1) for latents in few])
            if turn:  # the first round is cold
                logs.append(float(np.mean(np.log(found[0]) - np.log(found[1]))))
            if turn and time.perf_counter() - begun > DUEL_S:
                break
    return math.exp(float(np.median(logs)))


def main(folder: str, first: str, second: str, threads: str, answer: str) -> None:
    """`first` and `second`: runtime and precision, joined by a colon. The parent has checked the bundle's digests."""
    files = BundleFiles.checked_before(Path(folder))
    pairs = [tuple(each.rsplit(":", 1)) for each in (first, second)]
    ratio = ladder_ratio(files, pairs[0], pairs[1], int(threads) or None)  # type: ignore[arg-type]
    Path(answer).write_bytes(msgspec.json.encode(ratio))


if __name__ == "__main__":
    main(*sys.argv[1:])
