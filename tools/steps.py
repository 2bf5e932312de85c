"""The steps of a long tool: each with a log of its own and its time on the screen."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

TAIL_LINES = 40


class StepFailed(Exception):
    """A step ended badly; its log says why."""


@contextmanager
def step(place: Path, name: str) -> Iterator[IO[bytes]]:
    """One step, its output in `place`/NAME.log, its wall time on the screen.

    Raises:
        StepFailed: a command of the step failed; the end of its log has been shown.
    """
    path = place / f"{name}.log"
    print(f"== {name}", flush=True)
    begun = time.monotonic()
    try:
        with path.open("wb") as log:
            yield log
    except subprocess.CalledProcessError as error:
        print(*path.read_text(errors="replace").splitlines()[-TAIL_LINES:], sep="\n")
        raise StepFailed(f"{name} failed: exit code {error.returncode}; the whole of it is in {path}") from error
    print(f"   {time.monotonic() - begun:.0f} s (wall), {path}", flush=True)
