"""The two libraries behind one API: classic TensorRT, and TensorRT for RTX."""

from __future__ import annotations

import importlib
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from elit_edge.runtimes.contract import Missing, Ready, library_state

Name = Literal["tensorrt", "tensorrt-rtx"]
KEPT_MESSAGES = 20


@dataclass(frozen=True)
class Library:
    """One of them, imported when it is first used."""

    name: Name
    package: str
    title: str
    remedy: str

    @property
    def ahead_of_time(self) -> bool:
        """Whether it compiles for other GPUs than the one it sits on, and without any."""
        return self.name == "tensorrt-rtx"

    def state(self) -> Ready | Missing:
        """Whether it is installed."""
        return library_state(self.package, self.remedy)

    def load(self) -> Any:
        """The module, whose names both share."""
        return importlib.import_module(self.package)

    @property
    def version(self) -> str:
        return str(self.load().__version__)

    def capabilities(self) -> tuple[str, ...]:
        """The GPUs that TensorRT for RTX knows to compile for: "8.6"."""
        names = (name for name in self.load().ComputeCapability.__members__ if name.startswith("SM"))
        return tuple(f"{name[2:-1]}.{name[-1]}" for name in names)

    @property
    def messages(self) -> Messages:
        """What it says; it takes one logger a process, and ignores any other."""
        return _messages(self)


TENSORRT = Library(
    "tensorrt",
    "tensorrt",
    "TensorRT",
    "on a Jetson it comes with JetPack: make the environment with --system-site-packages; elsewhere: pip install "
    "tensorrt",
)
TENSORRT_RTX = Library("tensorrt-rtx", "tensorrt_rtx", "TensorRT for RTX", "pip install 'elit-edge[tensorrt-rtx]'")
LIBRARIES: dict[str, Library] = {library.name: library for library in (TENSORRT, TENSORRT_RTX)}


class Messages:
    """The last errors of a library, from any thread."""

    def __init__(self) -> None:
        self._kept: deque[str] = deque(maxlen=KEPT_MESSAGES)
        self._lock = threading.Lock()
        self.logger: Any = None
        """What the library is given."""

    def add(self, message: str) -> None:
        with self._lock:
            self._kept.append(" ".join(message.split()))

    @contextmanager
    def fresh(self) -> Iterator[Messages]:
        """For a block that may fail: only what is said in it is kept."""
        with self._lock:
            self._kept.clear()
        yield self

    def words(self) -> str:
        """What went wrong, as far as it was said: the first error is the cause, what follows its consequence."""
        with self._lock:
            return self._kept[0] if self._kept else "it gave no reason"


@cache
def _messages(library: Library) -> Messages:
    trt, messages = library.load(), Messages()

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # of a module that is known when this runs
        """Keeps errors; warnings and below are for the library's own developers."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                messages.add(message)

    messages.logger = Logger()
    return messages
