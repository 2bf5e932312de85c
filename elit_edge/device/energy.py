"""Energy used since a meter was made, where a sensor can be read: RAPL, Jetson's rails, NVML.

Sources: the kernel's power/powercap/powercap.rst; NVIDIA's NVML API reference.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from elit_edge.device.gpu import gpu_names
from elit_edge.device.optional import optional_library, within
from elit_edge.device.rails import RailFiles, find_rails, whole_board
from elit_edge.device.tree import Tree

POWERCAP = "sys/class/powercap"
SAMPLE_S = 0.05
NVML_SECONDS = 2.0


class EnergyMeter(Protocol):
    """Counts joules from the moment it is made."""

    name: str
    """Which sensors, and so what of the machine is counted."""

    def joules(self) -> float:
        """Since the meter was made; never falls. Ask a RAPL meter every few minutes: its counters wrap."""

    def close(self) -> None:
        """End what measures; the last count stays. Closing twice is no error."""


def energy_meter(root: Path = Path("/")) -> EnergyMeter | None:
    """A meter of all that can be read: a Jetson's rails, or the processor (RAPL) and the NVIDIA GPUs together.

    Returns:
        None without a readable sensor. RAPL is for root alone on most systems.
    """
    tree = Tree(root)
    rails = whole_board(tuple(rail for rail in find_rails(tree) if rail.power_w(tree) is not None))
    if rails:
        return RailMeter(tree, rails)
    counters: list[Counter] = [*_rapl(tree), *_nvml(tree)]
    return CounterMeter(counters) if counters else None


class Counter(Protocol):
    """A counter in hardware."""

    name: str
    range_uj: int | None
    """Where it starts again from zero; None if it does not."""

    def read_uj(self) -> int | None:
        """The count in microjoules; None if it cannot be read now."""


class CounterMeter:
    """The sum of counters, each taken from its last readable value."""

    def __init__(self, counters: list[Counter]) -> None:
        self.name = " + ".join(counter.name for counter in counters)
        self._counters = counters
        self._last = [counter.read_uj() for counter in counters]
        self._total_uj = 0
        self._closed = False
        self._lock = threading.Lock()

    def joules(self) -> float:
        with self._lock:
            if not self._closed:
                for index, counter in enumerate(self._counters):
                    self._advance(index, counter)
            return self._total_uj / 1e6

    def close(self) -> None:
        self.joules()
        self._closed = True

    def _advance(self, index: int, counter: Counter) -> None:
        now, last = counter.read_uj(), self._last[index]
        if now is None:
            return
        if last is not None and now >= last:
            self._total_uj += now - last
        elif last is not None and counter.range_uj is not None:
            self._total_uj += now + max(0, counter.range_uj - last)
        self._last[index] = now


class RailMeter:
    """Power of rails, sampled in a thread and integrated."""

    def __init__(self, tree: Tree, rails: tuple[RailFiles, ...], period_s: float = SAMPLE_S) -> None:
        self.name = "INA3221 " + " + ".join(rail.name for rail in rails)
        self._tree, self._rails, self._period_s = tree, rails, period_s
        self._joules = 0.0
        self._last: tuple[float, float] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._run, name="energy meter", daemon=True)
        self._thread.start()

    def joules(self) -> float:
        if not self._ended.is_set():
            self._sample()
        with self._lock:
            return self._joules

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._period_s):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            powers = [rail.power_w(self._tree) for rail in self._rails]
            now = time.perf_counter()
            known = [power for power in powers if power is not None]
            if len(known) < len(powers):
                return
            watts = sum(known)
            if self._last is not None:
                then, before = self._last
                self._joules += (now - then) * (watts + before) / 2
            self._last = now, watts


class _Rapl:
    def __init__(self, tree: Tree, folder: str, name: str) -> None:
        self.name = f"RAPL {name}"
        self.range_uj = tree.number(f"{folder}/max_energy_range_uj", 1)
        self._tree, self._path = tree, f"{folder}/energy_uj"

    def read_uj(self) -> int | None:
        return self._tree.number(self._path)


def _rapl(tree: Tree) -> list[_Rapl]:
    """The packages; parts of them (core, uncore) would be counted twice."""
    found = []
    for zone in tree.names(POWERCAP):
        name = tree.word(f"{POWERCAP}/{zone}/name") or ""
        if re.fullmatch(r"intel-rapl:\d+", zone) and name.startswith("package"):
            found.append(_Rapl(tree, f"{POWERCAP}/{zone}", name))
    return [counter for counter in found if counter.read_uj() is not None]


class _Nvml:
    range_uj: int | None = None

    def __init__(self, pynvml: Any, index: int) -> None:
        self.name = f"NVML GPU {index}"
        self._pynvml = pynvml
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)

    def read_uj(self) -> int | None:
        try:
            return int(self._pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) * 1000
        except self._pynvml.NVMLError:
            return None


def _nvml(tree: Tree) -> list[_Nvml]:
    if not tree.here or not (gpu_names(tree) or tree.exists("dev/nvidiactl")):
        return []
    pynvml = optional_library(tree, "pynvml", "nvidia-ml-py")
    if pynvml is None:
        return []

    def ask() -> list[_Nvml]:
        pynvml.nvmlInit()
        return [_Nvml(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]

    return [counter for counter in within(tree, "NVML", NVML_SECONDS, ask) or [] if counter.read_uj() is not None]
