"""A bench: every ready runtime x precision in a process of its own, then, where it is wanted, a sustained run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import closing

import msgspec

from elit_edge.bench.asking import ask
from elit_edge.bench.context import context_of, identity_of
from elit_edge.bench.figures import sustained_of
from elit_edge.bench.report import Bin, Candidate, Report, Sustained, context_digest
from elit_edge.bench.rows import Rows
from elit_edge.bench.worker import Binned, Placed, Share, Task, Warm
from elit_edge.bundle import Bundle
from elit_edge.costs import Profile
from elit_edge.device import probe
from elit_edge.device.speed import load_average
from elit_edge.errors import RequestError, RuntimeUnavailable
from elit_edge.profiling.choosing import PassedOver, profiles_of
from elit_edge.profiling.own_process import WorkerFailed

WINDOW_S = 3.0

Progress = Callable[[str, float], None]
"""What is done now, and how much of that, 0..1."""


def bench(
    bundle: Bundle,
    *,
    runtime: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    window_s: float = WINDOW_S,
    sustained_s: float | None = None,
    progress: Progress = lambda _, __: None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measure a bundle on this device.

    Args:
        bundle: an opened one.
        runtime: a name, or "auto" for all that are ready.
        precision: one, or None for all that a runtime can compute.
        threads: CPU threads of one call; None leaves it to the runtimes.
        window_s: measuring time of each budget, in seconds above 0.
        sustained_s: length of a sustained run of the runtime that is fastest at the full budget; None for none.
        progress: told what is done.
        say: told what a person should know meanwhile.

    Returns:
        The report; cut short where a KeyboardInterrupt came in the middle of measuring.

    Raises:
        RequestError: `threads` is less than 1.
        RuntimeUnavailable: no runtime could be measured.
        KeyboardInterrupt: before anything was measured.
    """
    if threads is not None and threads < 1:
        raise RequestError(f"threads = {threads}: at least 1, or None to leave it to the runtimes")
    run = _Run(bundle, threads, progress, say)
    load_start = load_average()
    progress("probe", 0)
    device = probe()
    progress("profiles", 0)
    profiles = profiles_of(bundle.files, runtime=runtime, precision=precision, threads=threads, report=say)
    run.lost += profiles.passed_over
    rows = Rows(bundle.manifest, device, threads)
    cut_short = False
    try:
        for profile in profiles.found:
            run.warm(profile, window_s, rows)
        if sustained_s is not None and run.candidates:
            run.sustained(sustained_s)
    except KeyboardInterrupt:
        if not run.candidates:
            raise
        cut_short = True
        say("interrupted: this is what was measured until then")
    if not run.candidates:
        raise RuntimeUnavailable("no runtime could be measured: " + "; ".join(lost.words() for lost in run.lost))
    manifest = bundle.manifest
    identity = identity_of(device, bundle.files, threads, run.candidates)
    return Report(
        made_at=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        bundle=manifest.name,
        latents_per_group=manifest.latents_per_group,
        steps=rows.steps,
        guidance=manifest.sampler.guidance,
        window_s=window_s,
        context=context_of(device, load_start, identity),
        context_sha256=context_digest(identity),
        candidates=tuple(run.candidates),
        lost=tuple(run.lost),
        sustained=run.curve,
        cut_short=cut_short,
        notes=tuple(run.notes),
    )


class _Run:
    """What has been measured so far."""

    def __init__(self, bundle: Bundle, threads: int | None, progress: Progress, say: Callable[[str], None]) -> None:
        self._bundle, self._threads, self._progress, self._say = bundle, threads, progress, say
        self.candidates: list[Candidate] = []
        self.lost: list[PassedOver] = []
        self.curve: Sustained | None = None
        self.notes: list[str] = []

    def warm(self, profile: Profile, window_s: float, rows: Rows) -> None:
        """One candidate; one that fails is lost, and why."""
        title = f"{profile.runtime} {profile.precision}"
        measured = len(self.candidates)
        self._progress(title, 0)
        try:
            with closing(ask(self._task(profile.runtime, profile.precision, window_s))) as words:
                for word in words:
                    if isinstance(word, Share):
                        self._progress(title, word.done)
                    elif isinstance(word, Warm):
                        self.candidates.append(rows.candidate(profile, word))
                    elif isinstance(word, Placed):
                        self.candidates[-1] = msgspec.structs.replace(self.candidates[-1], placement=word.parts)
        except WorkerFailed as failure:
            self._say(f"{title}: {failure}")
            if len(self.candidates) > measured:
                self.notes.append(f"where {title} is computed is not known: {failure}")
                return
            self.lost.append(PassedOver(runtime=profile.runtime, precision=profile.precision, reason=str(failure)))

    def sustained(self, seconds: float) -> None:
        """Of the candidate that is fastest at the full budget. What comes before an end in the middle is kept."""
        best = min(self.candidates, key=lambda each: each.rows[-1].times.median_ms)
        latents = self._bundle.manifest.latents_per_group
        self._say(
            f"sustained: {best.title} at {latents} latents for {seconds:g} s; Ctrl-C ends it and keeps what there is"
        )
        self._progress("sustained", 0)
        bins: list[Bin] = []
        try:
            with closing(ask(self._task(best.runtime, best.precision, seconds, sustained=True))) as words:
                for word in words:
                    if isinstance(word, Binned):
                        bins.append(word.bin)
                        self._progress("sustained", min(word.bin.end_s / seconds, 1.0))
        except WorkerFailed as failure:
            self._say(f"sustained: {failure}")
            self.notes.append(f"the sustained run of {best.title} ended after {len(bins)} bins: {failure}")
        finally:
            if bins:
                self.curve = sustained_of(best.runtime, best.precision, latents, seconds, bins)

    def _task(self, runtime: str, precision: str, seconds: float, *, sustained: bool = False) -> Task:
        return Task(
            folder=str(self._bundle.files.folder),
            runtime=runtime,
            precision=precision,
            threads=self._threads,
            seconds=seconds,
            sustained=sustained,
        )
