"""Short measurements: matrix products by precision, and the bandwidth of main memory. Under 3 s together."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from elit_edge.device.facts import Bandwidth, Cpu, Memory, Rate, Speed
from elit_edge.device.integer_product import integer_product, onnxruntime_version

BUSY_LOAD = 1.0
"""From this load average on, other programs keep a CPU busy, and times are too long."""
SIDES = (512, 1024, 2048)
LONG_ENOUGH_S = 0.015
"""A product is made larger until it takes this long, so that starting the threads does not count."""
WINDOW_S = 0.3
MOST_RUNS = 200
SMALLEST_ARRAY_BYTES = 64 << 20
LARGEST_ARRAY_BYTES = 512 << 20


def measure_speed(cpu: Cpu, memory: Memory) -> Speed:
    """Measure with as many threads as CPUs may be used; numpy's library takes the number of its own default."""
    started = time.perf_counter()
    load = load_average()
    threads = max(1, math.floor(cpu.usable_cpus or 1))
    nothing = "numpy has no kernel for it: a figure would be that of a conversion to fp32"
    matmul = (
        _fp32(),
        _int8(threads),
        _unmeasured("fp16", nothing),
        _unmeasured("bf16", nothing),
    )
    bandwidth = _bandwidth(threads, cpu.last_cache_bytes, memory.usable_bytes)
    took_s = round(time.perf_counter() - started, 3)
    return Speed(matmul=matmul, memory=bandwidth, load_average=load, took_s=took_s)


def load_average() -> float | None:
    """Of the last minute; None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # Windows, and phones that keep it to themselves
        return None


def _fp32() -> Rate:
    def prepare(side: int) -> Callable[[], object]:
        left = np.ones((side, side), np.float32)
        out = np.empty_like(left)
        return lambda: np.matmul(left, left, out=out)

    return _rate("fp32", _blas(), prepare)


def _int8(threads: int) -> Rate:
    version = onnxruntime_version()
    if version is None:
        return _unmeasured("int8", "ONNX Runtime is not installed; pip install onnxruntime")
    try:
        return _rate("int8", f"onnxruntime {version}, uint8 x int8", lambda side: integer_product(side, threads))
    except Exception as error:  # noqa: BLE001 - whatever the library raises: no rate, and why
        return _unmeasured("int8", f"ONNX Runtime refused the product: {error}")


def _rate(precision: Literal["fp32", "int8"], library: str, prepare: Callable[[int], Callable[[], object]]) -> Rate:
    for side in SIDES:
        run = prepare(side)
        if min(_seconds(run), _seconds(run)) >= LONG_ENOUGH_S:
            break
    times = _window(run)
    median, spread = _summary(times)
    return Rate(
        precision=precision,
        gops=_rounded(2 * side**3 / median / 1e9),
        library=library,
        side=side,
        n=len(times),
        spread=spread,
        reason=None,
    )


def _unmeasured(precision: Literal["fp16", "bf16", "int8"], reason: str) -> Rate:
    return Rate(precision=precision, gops=None, library=None, side=None, n=0, spread=None, reason=reason)


def _bandwidth(threads: int, last_cache_bytes: int | None, usable_bytes: int | None) -> Bandwidth:
    size = max(SMALLEST_ARRAY_BYTES, 2 * (last_cache_bytes or 0))
    reason = None
    if size > LARGEST_ARRAY_BYTES:
        reason = f"an array twice the last cache would be {size >> 20} MiB, more than a short measurement allows"
    elif usable_bytes is not None and 4 * size > usable_bytes:
        reason = f"two arrays of {size >> 20} MiB would take more than half of the memory that is left"
    if reason is not None:
        return Bandwidth(copy_gb_s=None, array_bytes=None, threads=None, n=0, spread=None, reason=reason)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    bounds = np.linspace(0, size, threads + 1).astype(int).tolist()
    parts = [(target[low:high], source[low:high]) for low, high in pairwise(bounds)]
    with ThreadPoolExecutor(threads) as pool:

        def run() -> None:
            list(pool.map(lambda part: np.copyto(*part), parts))

        run()
        times = _window(run)
    median, spread = _summary(times)
    return Bandwidth(
        copy_gb_s=_rounded(2 * size / median / 1e9),
        array_bytes=size,
        threads=threads,
        n=len(times),
        spread=spread,
        reason=None,
    )


def _blas() -> str:
    config: Any = np.show_config(mode="dicts")
    found = config.get("Build Dependencies", {}).get("blas", {})
    return f"numpy {np.__version__}, {found.get('name') or 'unknown library'} {found.get('version') or ''}".strip()


def _window(run: Callable[[], object]) -> list[float]:
    """Seconds of each run of a window, one at least."""
    end = time.perf_counter() + WINDOW_S
    times = [_seconds(run)]
    while time.perf_counter() < end and len(times) < MOST_RUNS:
        times.append(_seconds(run))
    return times


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    # Clocks of some systems tick so coarsely that nothing seems to pass.
    return max(time.perf_counter() - started, 1e-9)


def _summary(times: list[float]) -> tuple[float, float | None]:
    low, median, high = (float(value) for value in np.percentile(times, (25, 50, 75)))
    return median, round((high - low) / median, 4) if len(times) >= 4 else None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
