"""What a figure was measured on, and how: the machine, the versions, interleaved timing."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")
PAUSE_SECONDS = 0.06
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimddp", "i8mm", "sve")


def describe() -> str:
    """One line: processor, features, cores, date, versions."""
    words = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in words.splitlines() if line.startswith("model name")), "")
    found = set(words.split())
    features = " ".join(name for name in CPU_FEATURES if name in found)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    date = dt.datetime.now(tz=dt.timezone.utc).date()
    return f"{model or platform.processor()} ({features}), {cores} cores, {platform.system()}, {date}; {versions}"


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Wall milliseconds of each call, run in turn, so that a drift of the machine's speed meets all of them alike.

    Thread pools spin for some 40 ms after their work and would take a core from the next call: each turn pauses first,
    and runs the call once unmeasured.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + repeats):
        for name, call in calls.items():
            time.sleep(PAUSE_SECONDS)
            call()
            begun = time.perf_counter()
            call()
            if turn >= warm_up:
                times[name].append((time.perf_counter() - begun) * 1e3)
    return {name: np.array(values) for name, values in times.items()}


def load_average() -> float:
    return os.getloadavg()[0]
