"""Libraries that may be missing, and calls that may never come back."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from elit_edge.device.tree import Tree

T = TypeVar("T")


def optional_library(tree: Tree, package: str, distribution: str) -> Any | None:
    """The module, or None and a note with its remedy. A library that breaks while it is imported counts as missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = error.name == package
        reason = "is not installed" if missing else f"cannot be imported ({error})"
    except Exception as error:  # noqa: BLE001 - whatever a foreign module raises
        reason = f"cannot be imported ({error})"
    tree.note(f"the library {distribution}", f"{reason}; pip install {distribution}")
    return None


def within(tree: Tree, subject: str, seconds: float, ask: Callable[[], T]) -> T | None:
    """What a driver's library answers within a time; None and a note if it raises or is silent.

    A call that does not return is left behind in a daemon thread: it cannot be ended, but it holds nobody up.
    """
    answers: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001 - stated as a note by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name=f"probe {subject}", daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    tree.note(subject, f"{errors[0]}" if errors else f"no answer within {seconds:g} s")
    return None
