"""Running a module of this package in a process of its own, for its answer."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

WORKER_S = 600.0
"""A process that has not answered after this long is given up."""


class WorkerFailed(Exception):
    """It crashed, or took too long: the last of what it said."""


def answer_of(module: str, *arguments: str) -> bytes:
    """What the module's `main` wrote to the file that it was given as its last argument.

    Raises:
        WorkerFailed: there is no answer.
    """
    with tempfile.TemporaryDirectory(prefix="elit-edge-") as folder:
        answer = Path(folder, "answer.json")
        try:
            ran = subprocess.run(  # noqa: S603 - our own module
                [sys.executable, "-m", module, *arguments, str(answer)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=WORKER_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise WorkerFailed(f"no answer within {WORKER_S:.0f} s") from error
        if ran.returncode != 0 or not answer.exists():
            raise WorkerFailed(last_words(ran.returncode, ran.stderr))
        return answer.read_bytes()


def last_words(code: int, stderr: bytes) -> str:
    """Why a process ended badly: the signal, or the last of what it said."""
    if code < 0:
        known = -code in set(signal.Signals)
        return f"ended by signal {signal.Signals(-code).name if known else -code}"
    said = stderr.decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"exit code {code}"
