"""Measuring a session: a few passes at a few budgets and batches, enough to predict the rest (costs.py)."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from elit_edge.costs import Conditions, Costs, Memory, Point, Profile
from elit_edge.noise import NoiseStream
from elit_edge.runtimes.contract import FloatArray, IntArray, Session

MEASURING_S = 1.5
"""Time that the passes of one profile may take, where a single pass is not longer than that."""
ROUNDS = 7
"""Times that each point should be measured."""
LEAST_ROUNDS = 2
BATCHES = (1, 2, 4, 8)
CHECKS = 5
UNHURRIED_S = 1.0
"""With less time than this, nothing is measured that needs pauses."""
PAUSE_S = 0.1
"""Threads that wait for work by spinning sleep after this long."""
CONDITION_ROWS = (2, 64)
SEED = 20260312


def measure(
    session: Session,
    version: str,
    *,
    threads: int | None = None,
    open_ms: float = 0.0,
    seconds: float = MEASURING_S,
    watts: Callable[[], float | None] = lambda: None,
) -> Profile:
    """Measure a session in this process.

    Args:
        session: any open session; it computes on noise.
        version: of the runtime's library.
        threads: what the session was prepared with.
        open_ms: what opening it took.
        seconds: time for the passes; a model whose passes are slower than that is measured at two points.
        watts: mean power since the call before, where there is a sensor.

    Returns:
        The profile; its memory is the peak of this process.
    """
    work = Work(session)
    conditions = tuple(_conditions(work, rows) for rows in CONDITION_ROWS)
    shapes, first_ms = _affordable(work, session.manifest.budgets, seconds)
    memory = _memory(work, session.manifest.latents_per_group, [batch for _, batch in shapes])
    watts()
    rounds: list[list[float]] = []
    begun = time.perf_counter()
    while len(rounds) < LEAST_ROUNDS or (len(rounds) < ROUNDS and time.perf_counter() - begun < seconds):
        rounds.append([work.pass_ms(*shape) for shape in shapes])
    power = watts()
    table = np.array(rounds)
    points = tuple(
        Point(
            latents=latents,
            batch=batch,
            first_ms=first,
            median_ms=float(np.median(column)),
            p90_ms=float(np.quantile(column, 0.9)),
            n=len(column),
        )
        for (latents, batch), first, column in zip(shapes, first_ms, table.T, strict=True)
    )
    relative = table / np.median(table, axis=0)
    return Profile(
        runtime=session.runtime,
        precision=session.precision,
        version=version,
        threads=threads,
        open_ms=open_ms,
        points=points,
        conditions=conditions,
        solver_ms=work.solver_ms(),
        waking_ms=work.waking_ms(session.manifest.budgets[0]) if seconds >= UNHURRIED_S else 0.0,
        drift=float(np.median(relative, axis=1).std()),
        memory=memory,
        watts=power,
    )


def spot_check(session: Session, costs: Costs, spare_ms: float) -> float | None:
    """How much longer a pass takes now than the profile says: a few passes at half the budget, the first of them cold.

    Returns:
        Measured over predicted time; None where that is not worth `spare_ms`.
    """
    budgets = session.manifest.budgets
    latents = budgets[len(budgets) // 2]
    predicted = costs.pass_ms(latents, 1)
    if predicted * (CHECKS + 2) > spare_ms:
        return None
    work = Work(session)
    work.pass_ms(latents, 1)
    return float(np.median([work.pass_ms(latents, 1) for _ in range(CHECKS)])) / predicted


class Work:
    """Inputs of any batch, and the clock around what is done with them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        model = session.manifest.model
        self._noise = NoiseStream(SEED, max(BATCHES)).draw((model.in_channels, model.image_size, model.image_size))
        self._x: FloatArray = self._noise.astype(np.float32)
        t, y = self._rows(max(BATCHES))
        self._modulations = session.condition(t, y)

    def _rows(self, count: int) -> tuple[FloatArray, IntArray]:
        classes = self._session.manifest.model.num_classes
        return np.linspace(0, 1, count, dtype=np.float32), np.arange(count, dtype=np.int64) % classes

    def pass_ms(self, latents: int, batch: int) -> float:
        begun = time.perf_counter()
        self._session.velocity_from(self._x[:batch], self._modulations[:batch], latents)
        return (time.perf_counter() - begun) * 1e3

    def condition_ms(self, rows: int) -> float:
        t, y = self._rows(rows)
        begun = time.perf_counter()
        self._session.condition(t, y)
        return (time.perf_counter() - begun) * 1e3

    def waking_ms(self, latents: int) -> float:
        """How much longer a pass takes after a pause."""
        found = []
        for _ in range(CHECKS):
            time.sleep(PAUSE_S)
            cold = self.pass_ms(latents, 1)
            found.append(cold - self.pass_ms(latents, 1))
        return max(0.0, float(np.median(found)))

    def solver_ms(self) -> float:
        """What `generation` and `sampling` do around a guided pass, for one sample."""
        found = []
        x, v = self._noise[:1], self._x[:1]
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            sample = x.astype(np.float32)
            guided = (sample + np.float32(2.5) * (v - sample)).astype(np.float64)
            predicted, after = x - 0.5 * guided, x - 0.04 * guided
            assert np.isfinite(after).all()
            assert np.isfinite(predicted).all()
            found.append((time.perf_counter() - begun) * 1e3)
        return float(np.median(found))


def _conditions(work: Work, rows: int) -> Conditions:
    work.condition_ms(rows)
    return Conditions(rows=rows, median_ms=float(np.median([work.condition_ms(rows) for _ in range(3)])))


def _affordable(work: Work, budgets: tuple[int, ...], seconds: float) -> tuple[list[tuple[int, int]], list[float]]:
    """The points that fit the time, as many times as they should be measured; and the first pass of each."""
    shapes: list[tuple[int, int]] = []
    first_ms: list[float] = []
    spent = 0.0
    for shape in _by_importance(budgets):
        if len(shapes) >= len(set(budgets[:1] + budgets[-1:])) and spent >= seconds * 1e3:
            break
        first = work.pass_ms(*shape)
        again = work.pass_ms(*shape)
        spent += ROUNDS * again
        shapes.append(shape)
        first_ms.append(first)
    return shapes, first_ms


def _by_importance(budgets: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The ends of the ladder first, alone and in pairs; then between them, halving; then larger batches."""
    ladder = _halving(budgets)
    seen: set[tuple[int, int]] = set()
    few = ladder[:5]
    for shape in itertools.chain(
        itertools.product(BATCHES[:2], ladder[:2]),
        itertools.product(BATCHES[:2], few),
        itertools.product(BATCHES[2:], ladder[:3]),
        itertools.product(BATCHES[:2], ladder),
    ):
        batch, latents = shape
        if shape not in seen:
            seen.add(shape)
            yield latents, batch


def _halving(budgets: tuple[int, ...]) -> list[int]:
    """Last, first, middle, middles of the halves, and so on."""
    order, spans = [budgets[-1], budgets[0]], [(0, len(budgets) - 1)]
    while spans:
        low, high = spans.pop(0)
        middle = (low + high) // 2
        if budgets[middle] not in order:
            order.append(budgets[middle])
        if high - low > 1:
            spans += [(low, middle), (middle, high)]
    return list(dict.fromkeys(order))


def _memory(work: Work, latents: int, batches: list[int]) -> tuple[Memory, ...]:
    """The peak of this process after one sample and after the largest batch that is affordable."""
    found = []
    for batch in sorted({1, max(batches)}):
        work.pass_ms(latents, batch)
        peak = peak_bytes()
        if peak is not None:
            found.append(Memory(batch=batch, peak_bytes=peak))
    return tuple(found)


def peak_bytes() -> int | None:
    """The most resident memory that this process has held; None where the platform does not tell."""
    with contextlib.suppress(OSError, IndexError, ValueError):  # ru_maxrss of Linux begins with that of the parent
        return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
