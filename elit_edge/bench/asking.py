"""The parent of a worker: starts it, hears its words as they come, and leaves none running."""

from __future__ import annotations

import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from typing import IO

import msgspec

from elit_edge.bench.worker import Task, Word
from elit_edge.profiling.own_process import WorkerFailed, last_words

SILENT_S = 600.0
"""A worker that says nothing for so long hangs."""


def ask(task: Task) -> Generator[Word, None, None]:
    """The words of a worker, as they come. It is ended with the iterator.

    Raises:
        WorkerFailed: it ended badly, or is silent for too long.
    """
    command = [sys.executable, "-m", "elit_edge.bench.worker", msgspec.json.encode(task).decode()]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process,  # noqa: S603 - our own module
    ):
        try:
            assert process.stdout is not None
            yield from _words(process.stdout)
            process.wait()
        except queue.Empty:
            raise WorkerFailed(f"no word from it for {SILENT_S:.0f} s") from None
        finally:
            process.kill()
        if process.returncode != 0:
            errors.seek(0)
            raise WorkerFailed(f"it failed when measured: {last_words(process.returncode, errors.read())}")


def _words(stream: IO[bytes]) -> Iterator[Word]:
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="bench worker", daemon=True).start()
    while (line := lines.get(timeout=SILENT_S)) is not None:
        if line.endswith(b"\n"):  # else it died in the middle of a word
            yield msgspec.json.decode(line, type=Word)
