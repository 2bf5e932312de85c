"""Which runtimes there are: the sub-packages of this package, and the entry points of others."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Mapping
from functools import cache

from elit_edge import runtimes
from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import RuntimeUnavailable
from elit_edge.manifest import Manifest
from elit_edge.runtimes.contract import Missing, Ready, Runtime, Session

ENTRY_POINTS = "elit_edge.runtimes"


@cache
def all_runtimes() -> Mapping[str, Runtime]:
    """Every known runtime by name, ready or not."""
    found: dict[str, Runtime] = {}
    for module in pkgutil.iter_modules(runtimes.__path__, f"{runtimes.__name__}."):
        if module.ispkg:
            own: tuple[Runtime, ...] = importlib.import_module(module.name).RUNTIMES
            found |= {runtime.name: runtime for runtime in own}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        found.setdefault(point.name, _load(point))
    return found


def _load(point: importlib.metadata.EntryPoint) -> Runtime:
    try:
        runtime = point.load()
    except Exception as error:  # noqa: BLE001 - whatever the module of a stranger raises
        return _Unloadable(point, error)
    if not isinstance(runtime, Runtime):
        return _Unloadable(point, TypeError("it is no elit_edge.runtimes.contract.Runtime"))
    return runtime


class _Unloadable(Runtime):
    """Stands for an entry point whose module raises, so that it harms no other runtime."""

    def __init__(self, point: importlib.metadata.EntryPoint, error: Exception) -> None:
        self.name = point.name
        owner = point.dist.name if point.dist is not None else point.value
        self._state = Missing(f"{point.value} cannot be loaded: {error}", f"update or uninstall {owner}")

    def check(self) -> Ready | Missing:
        return self._state

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def prepare(self, files: BundleFiles, precision: str, threads: int | None) -> Session:  # noqa: ARG002
        raise RuntimeUnavailable(f"runtime {self.name} is not ready here: {words(self._state)}")


def state_of(runtime: Runtime) -> Ready | Missing:
    """Whether it is ready; a stranger's that raises when asked is missing, and harms no other."""
    try:
        return runtime.check()
    except Exception as error:  # noqa: BLE001 - whatever the module of a stranger raises
        return Missing(f"its check failed: {error}", "update or uninstall it")


def choose(name: str) -> Runtime:
    """The runtime of that name, if it is ready here.

    Raises:
        RuntimeUnavailable: there is none of that name, or it is not ready here; the message holds the remedy.
    """
    known = all_runtimes()
    if name not in known:
        raise RuntimeUnavailable(f"unknown runtime {name!r}; there are: auto, {', '.join(sorted(known))}")
    state = state_of(known[name])
    if isinstance(state, Missing):
        raise RuntimeUnavailable(f"runtime {name} is not ready here: {words(state)}")
    return known[name]


def words(state: Ready | Missing) -> str:
    """A state for a person: what is there, or why it is not and what to do."""
    return f"{state.reason}; {state.remedy}" if isinstance(state, Missing) else f"ready ({state.version})"
