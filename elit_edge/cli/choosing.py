"""`generate` within bounds: the clock from the program's start, the plan for this device, and what is said of both."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from elit_edge.bundle import Bundle
from elit_edge.cli.reporting import say
from elit_edge.deadline import DeadlineReport
from elit_edge.device.pressure import sustainable_share
from elit_edge.errors import DeadlineError, RuntimeUnavailable
from elit_edge.planning import Plan, Planner, Row, Wish
from elit_edge.profiling.choosing import PassedOver, profiles_of
from elit_edge.runtimes.contract import Session
from elit_edge.sampling import GuidanceKind

ROWS = 16


class Clock:
    """Seconds since this program was started: interpreter, imports and all."""

    def __init__(self) -> None:
        self._started = time.perf_counter() - _process_age_s()

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._started

    def restart(self) -> None:
        self._started = time.perf_counter()


def _process_age_s() -> float:
    """Since the process began; 0 where the platform does not tell on a clock that cannot jump.

    psutil's create_time counts from a boot time in whole seconds, on the clock that people set.
    """
    try:
        words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(words[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


class Chooser:
    """The planner over every runtime that was asked for."""

    def __init__(
        self,
        bundle: Bundle,
        labels: Sequence[int],
        runtime: str,
        precision: str | None,
        threads: int | None,
        clock: Clock,
    ) -> None:
        self._bundle, self._threads, self._clock = bundle, threads, clock
        self._batch = len(labels)
        self._classes = len(set(labels)) + 1  # and the null class
        if bundle.manifest.quality is None:
            say("planned with the paper's figures, whose distances mean nothing here; see elit-edge evaluate")
        measurements: list[str] = []

        def report(words: str) -> None:
            measurements.append(words)
            say(words)

        found = profiles_of(bundle.files, runtime=runtime, precision=precision, threads=threads, report=report)
        if not found.found:
            raise RuntimeUnavailable("no runtime is ready: " + "; ".join(lost.words() for lost in found.passed_over))
        if measurements:
            clock.restart()
        self.passed_over: tuple[PassedOver, ...] = found.passed_over
        self.profiles = found.found
        self.rows: list[Row] = []

    def plan(
        self,
        deadline_s: float | None,
        finish_s: float,
        memory_bytes: float | None,
        joules: float | None,
        guidance: GuidanceKind | None,
    ) -> Plan:
        """The best plan; `rows` is what it was chosen from.

        Raises:
            DeadlineError, PlanError: there is none.
        """
        planner = Planner.of(self._bundle.manifest, self.profiles, opening=True)
        left_s = None if deadline_s is None else self.left_s(deadline_s, finish_s)
        if left_s is not None and left_s <= 0:
            raise DeadlineError(
                f"of {deadline_s:g} s no time is left to generate: {self._clock.elapsed_s():.2f} s went into starting "
                f"and checking the bundle, {finish_s:.2f} s are held back for what follows; give a longer deadline",
                None,
            )
        wish = Wish(
            batch=self._batch,
            classes=self._classes,
            deadline_ms=None if left_s is None else left_s * 1e3,
            memory_bytes=None if memory_bytes is None else int(memory_bytes),
            joules=joules,
            guidance=guidance,
            cap=sustainable_share()[0],
        )
        self.rows = planner.table(wish)
        return self.rows[0].plan

    def open(self, plan: Plan) -> Session:
        session = self._bundle.prepare(plan.runtime, plan.precision, self._threads)
        session.profile = next(p for p in self.profiles if (p.runtime, p.precision) == (plan.runtime, plan.precision))
        session.passed_over = tuple(lost.words() for lost in self.passed_over)
        return session

    def left_s(self, deadline_s: float, finish_s: float) -> float:
        """Of a deadline, once the time of decoding and of the file is held back."""
        return deadline_s - finish_s - self._clock.elapsed_s()


def explain_plans(chooser: Chooser) -> None:
    """The best plans of each kind, to stderr."""
    table = Table("runtime", "steps", "latents", "guidance", "ms", "distance", "MB", "", title="Plans")
    shown = [row for row in chooser.rows if row.verdict in ("chosen", "worse")][:ROWS]
    shown += [row for row in chooser.rows if row.verdict not in ("chosen", "worse")][: max(0, ROWS - len(shown))]
    for row in shown:
        plan = row.plan
        low, high = min(plan.latents), max(plan.latents)
        table.add_row(
            f"{plan.runtime} {plan.precision}",
            str(plan.steps),
            str(low) if low == high else f"{low} to {high}",
            f"{plan.guidance} {plan.weak_latents}" if plan.guidance in ("ccfg", "autoguidance") else plan.guidance,
            f"{plan.expected_ms:.0f}",
            f"{plan.distance:.3f}",
            "?" if plan.memory_bytes is None else f"{plan.memory_bytes / 1e6:.0f}",
            row.verdict,
        )
    Console(stderr=True).print(table)


def say_deadline(report: DeadlineReport, deadline_s: float | None, clock: Clock) -> None:
    """What was planned, and what came of it."""
    say(f"plan: {report.plan.words()}")
    for change in report.changes:
        span = f"{min(change.latents)} to {max(change.latents)} latents" if change.latents else "none"
        then = f"{change.steps_left} steps left at {span}"
        say(f"  after step {change.step} ({change.at_ms:.0f} ms): {change.why}; {then}")
    ended = " (ended early on the last step's prediction)" if report.landed else ""
    quality = f"expected distance {report.distance:.3f}, planned {report.plan.distance:.3f}"
    if deadline_s is None:
        say(f"generation took {report.elapsed_ms:.0f} of {report.deadline_ms:.0f} ms{ended}; {quality}")
        return
    took = clock.elapsed_s()
    verdict = "kept" if took <= deadline_s else f"MISSED by {(took - deadline_s) * 1e3:.0f} ms"
    say(f"deadline {deadline_s * 1e3:.0f} ms {verdict}: {took * 1e3:.0f} ms from start to file{ended}; {quality}")
