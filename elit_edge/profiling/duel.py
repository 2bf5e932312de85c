"""`python -m elit_edge.profiling.duel`: two runtimes side by side, where their profiles are too close to call.

Profiles are measured one after the other, and a machine's speed drifts in between. Here both run in turn.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import msgspec
import numpy as np

from elit_edge.bundle_files import BundleFiles
from elit_edge.profiling.turns import Contestant, passes_in_turn

ROUNDS = 8


def ladder_ratio(files: BundleFiles, first: Contestant, second: Contestant, threads: int | None) -> float:
    """Time of the first over that of the second, alone at least, middle and full budget."""
    logs = np.log(passes_in_turn(files, [first, second], threads, ROUNDS)).mean(axis=2)
    return math.exp(float(np.median(logs[:, 0] - logs[:, 1])))


def main(folder: str, first: str, second: str, threads: str, answer: str) -> None:
    """`first` and `second`: runtime and precision, joined by a colon. The parent has checked the bundle's digests."""
    files = BundleFiles.checked_before(Path(folder))
    (one, _, its), (other, _, others) = first.rpartition(":"), second.rpartition(":")
    ratio = ladder_ratio(files, (one, its), (other, others), int(threads) or None)
    Path(answer).write_bytes(msgspec.json.encode(ratio))


if __name__ == "__main__":
    main(*sys.argv[1:])
