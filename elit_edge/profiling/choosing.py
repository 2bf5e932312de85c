"""The profiles of all ready runtimes on this device for one bundle, and which of them is the fastest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from elit_edge.bundle_files import BundleFiles
from elit_edge.costs import Costs, Profile
from elit_edge.errors import ElitEdgeError, RuntimeUnavailable
from elit_edge.parity import GATE_DB, psnr_db
from elit_edge.profiling.cache import Known, Report, cache_path, locked, read, write
from elit_edge.profiling.own_process import WorkerFailed, answer_of
from elit_edge.profiling.worker import Measured
from elit_edge.runtimes.contract import Ready, Runtime
from elit_edge.runtimes.registry import all_runtimes, choose, state_of, words

CLOSE = 1.5
"""Two profiles within this ratio were perhaps told apart by the drift of the machine alone: both run side by side."""

Candidate = tuple[str, str, str]
"""Runtime, precision, version."""


class PassedOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A runtime that was not chosen or measured, or could not be: why, and what to do where that is known."""

    runtime: str
    precision: str | None
    reason: str

    def words(self) -> str:
        return f"{self.runtime}{f' {self.precision}' if self.precision else ''}: {self.reason}"


@dataclass(frozen=True)
class Profiles:
    """What the ready runtimes cost here, and why others are not among them."""

    found: tuple[Profile, ...]
    passed_over: tuple[PassedOver, ...]
    duels: Mapping[str, float] = field(default_factory=dict)
    """Time of one over that of another, measured side by side."""

    def ranked(self, flops: Mapping[int, int]) -> list[tuple[Profile, float]]:
        """The profiles and their time of a pass (geometric mean over the ladder, one sample), the fastest first."""
        means = [(profile, _ladder_ms(Costs(profile, flops), flops)) for profile in self.found]
        return sorted(means, key=lambda pair: pair[1])

    def fastest(self, flops: Mapping[int, int]) -> tuple[Profile, tuple[PassedOver, ...]]:
        """The profile of the runtime to take, and why each other one lost.

        Raises:
            RuntimeUnavailable: there is none.
        """
        if not self.found:
            raise RuntimeUnavailable(
                "no runtime is ready here: " + "; ".join(lost.words() for lost in self.passed_over)
            )
        ranked = self.ranked(flops)
        ratio = self.duels.get(duel_key(ranked[0][0], ranked[1][0])) if len(ranked) > 1 else None
        if ratio is not None and ratio > 1:
            ranked[:2] = ranked[1::-1]
        lost = []
        for place, (profile, mean) in enumerate(ranked[1:]):
            how = f"{mean / ranked[0][1]:.2f} times the time ({mean:.3g} ms a pass)"
            if place == 0 and ratio is not None:
                how = f"{max(ratio, 1 / ratio):.2f} times the time, side by side"
            lost.append(PassedOver(profile.runtime, profile.precision, how))
        return ranked[0][0], (*lost, *self.passed_over)


def duel_key(first: Profile, second: Profile) -> str:
    """Which two ran side by side."""
    return " against ".join(
        f"{each.runtime} {each.precision} {each.version} {each.threads or 'auto'}" for each in (first, second)
    )


def profiles_of(
    files: BundleFiles,
    *,
    runtime: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    measure_missing: bool = True,
    report: Report = lambda _: None,
) -> Profiles:
    """The profiles of a bundle's candidates on this device.

    Args:
        files: a checked bundle.
        runtime: one, or "auto" for all that are ready.
        precision: one, or None for all that the runtime can compute.
        threads: CPU threads of one call; None leaves it to the runtimes.
        measure_missing: False reads the cache alone.
        report: told of each measurement.

    Raises:
        RuntimeUnavailable: the runtime asked for is not ready.
    """
    candidates, passed_over = candidates_of(files, runtime, precision)
    path = cache_path(files)
    if not measure_missing:
        return _judged(candidates, read(path, report), passed_over, threads)
    with locked(path, report) as writable:
        known = read(path, report)
        before = (len(known.measured), len(known.duels))
        for candidate in candidates:
            if _key(candidate, threads) not in known.measured:
                passed_over += _measure(files, candidate, threads, known, report)
        profiles = _judged(candidates, known, passed_over, threads)
        if runtime == "auto":
            _duel(files, profiles, threads, known, report)
        if writable and (len(known.measured), len(known.duels)) != before:
            write(path, known, report)
    return profiles


def candidates_of(files: BundleFiles, runtime: str, precision: str | None) -> tuple[list[Candidate], list[PassedOver]]:
    """What could compute this bundle here, float32 first; and what could not, and why."""
    named: dict[str, Runtime] = dict(all_runtimes()) if runtime == "auto" else {runtime: choose(runtime)}
    candidates: list[Candidate] = []
    passed_over: list[PassedOver] = []
    for name, backend in named.items():
        state = state_of(backend)
        if not isinstance(state, Ready):
            passed_over.append(PassedOver(name, None, words(state)))
            continue
        try:
            able = backend.precisions(files.manifest)
            remedy = backend.remedy
        except Exception as error:  # noqa: BLE001 - as a check that raises: a stranger's, which harms no other
            passed_over.append(PassedOver(name, None, f"it cannot say its precisions: {error}; update or uninstall it"))
            continue
        if not able:
            passed_over.append(PassedOver(name, None, f"it can compute nothing of this bundle; {remedy}"))
        elif precision is not None and precision not in able:
            passed_over.append(PassedOver(name, precision, f"it computes in {', '.join(able)} alone"))
        for each in able:
            calibration = files.manifest.calibration(each)
            if precision is None and calibration is not None and calibration.verdict.faults:
                reason = f"its verdict refuses it: {calibration.verdict.faults[0]}; name it to use it"
                passed_over.append(PassedOver(name, each, reason))
            elif precision in (None, each):
                candidates.append((name, each, state.version))
    candidates.sort(key=lambda candidate: (candidate[1] != "fp32", candidate[0] != "onnxruntime"))
    return candidates, passed_over


def _measure(
    files: BundleFiles, candidate: Candidate, threads: int | None, known: Known, report: Report
) -> list[PassedOver]:
    runtime, precision, _ = candidate
    try:
        choose(runtime).settle(files, precision, report)
    except ElitEdgeError as error:
        return [PassedOver(runtime, precision, str(error))]
    report(f"measuring {runtime} {precision} on this device (once)")
    try:
        answer = answer_of("elit_edge.profiling.worker", str(files.folder), runtime, precision, str(threads or 0))
    except WorkerFailed as error:
        return [PassedOver(runtime, precision, f"it failed when measured: {error}")]
    known.measured[_key(candidate, threads)] = msgspec.json.decode(answer, type=Measured)
    return []


def _duel(files: BundleFiles, profiles: Profiles, threads: int | None, known: Known, report: Report) -> None:
    """Let the two fastest run side by side, where their profiles are close."""
    flops = {rung.latents: rung.velocity_flops for rung in files.manifest.ladder}
    ranked = profiles.ranked(flops)[:2]
    if len(ranked) < 2 or ranked[1][1] > CLOSE * ranked[0][1]:
        return
    (first, _), (second, _) = ranked
    key = duel_key(first, second)
    if key in known.duels:
        return
    names = [f"{each.runtime}:{each.precision}" for each in (first, second)]
    report(f"comparing {' and '.join(names)} side by side (once)")
    try:
        answer = answer_of("elit_edge.profiling.duel", str(files.folder), *names, str(threads or 0))
    except WorkerFailed as error:
        report(f"they do not run side by side ({error}); their profiles decide")
        return
    ratio = msgspec.json.decode(answer, type=float)
    known.duels |= {key: ratio, duel_key(second, first): 1 / ratio}


def _judged(candidates: list[Candidate], known: Known, passed_over: list[PassedOver], threads: int | None) -> Profiles:
    """Leave out what does not compute what the first float32 candidate does."""
    found: list[Profile] = []
    reference: Measured | None = None
    lost = list(passed_over)
    for candidate in candidates:
        measured = known.measured.get(_key(candidate, threads))
        if measured is None:
            continue
        reference = reference or measured
        parity = psnr_db(np.array(measured.velocity), np.array(reference.velocity))
        gate = min(GATE_DB.get(candidate[1], math.inf), GATE_DB[reference.profile.precision])
        if measured is not reference and parity < gate:
            beside = f"{reference.profile.runtime} {reference.profile.precision}"
            reason = f"{parity:.0f} dB from {beside}, and the gate is {gate:.0f} dB"
            lost.append(PassedOver(candidate[0], candidate[1], reason))
        else:
            found.append(measured.profile)
    return Profiles(tuple(found), tuple(lost), known.duels)


def _ladder_ms(costs: Costs, flops: Mapping[int, int]) -> float:
    return float(np.exp(np.mean([np.log(costs.pass_ms(latents, 1)) for latents in flops])))


def _key(candidate: Candidate, threads: int | None) -> str:
    return " ".join([*candidate, str(threads or "auto")])
