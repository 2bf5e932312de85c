"""Puts the simulation in the place of the real modules for a while, and undoes it whole."""

from __future__ import annotations

import functools
import gc
import importlib.machinery
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

from elit_edge.runtimes.tensorrt_ import library
from simulated_gpu import driver, tensorrt, tensorrt_rtx


@contextmanager
def simulated_gpu(**settings: object) -> Iterator[driver.State]:
    """A machine with one GPU and both libraries.

    Args:
        settings: of `driver.State`: what machine it is.

    Yields:
        the machine, to be looked at and changed.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cuda", "cuda.bindings"):
            package = ModuleType(name)
            package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
            patch.setitem(sys.modules, name, package)
        patch.setitem(sys.modules, "cuda.bindings.driver", driver)
        patch.setitem(sys.modules, "tensorrt", tensorrt)
        patch.setitem(sys.modules, "tensorrt_rtx", tensorrt_rtx)
        patch.setattr(library, "_messages", functools.cache(library._messages.__wrapped__))
        tensorrt.reset()
        yield driver.reset(**settings)


def assert_nothing_is_held() -> None:
    """Every allocation, stream, graph and context was given back, those of the library too."""
    gc.collect()
    assert driver.state.held == {}
    assert tensorrt.process.contexts == 0
