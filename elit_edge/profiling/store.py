"""The profiles of all ready runtimes on this device for one bundle: measured once, then read from the user's cache."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from elit_edge.bundle_files import BundleFiles
from elit_edge.costs import Costs, Profile
from elit_edge.device import identity
from elit_edge.errors import RequestError, RuntimeUnavailable
from elit_edge.files import appearing_file
from elit_edge.parity import GATE_DB, psnr_db
from elit_edge.profiling.worker import Measured
from elit_edge.runtimes.contract import Ready, Runtime
from elit_edge.runtimes.registry import all_runtimes, choose, words
from elit_edge.version import __version__

LOCK_S = 300.0
"""A process waits so long for another that measures the same bundle; then it measures without the cache."""
WORKER_S = 600.0
"""A runtime that has not been measured after this long is passed over."""

Report = Callable[[str], None]
"""Told what is being done; only where something has to be measured."""


@dataclass(frozen=True)
class PassedOver:
    """A runtime that was not chosen, or could not be."""

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

    def fastest(self, flops: dict[int, int]) -> tuple[Profile, tuple[PassedOver, ...]]:
        """The profile of the least time over the ladder (geometric mean, one sample), and why each other one lost.

        Raises:
            RuntimeUnavailable: there is none.
        """
        if not self.found:
            raise RuntimeUnavailable(
                "no runtime is ready here: " + "; ".join(lost.words() for lost in self.passed_over)
            )
        means = [_ladder_ms(Costs(profile, flops), flops) for profile in self.found]
        best = int(np.argmin(means))
        lost = tuple(
            PassedOver(each.runtime, each.precision, f"{mean / means[best]:.2f} times the time ({mean:.3g} ms a pass)")
            for i, (each, mean) in enumerate(zip(self.found, means, strict=True))
            if i != best
        )
        return self.found[best], lost + self.passed_over


class _Store(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file of one bundle on one device."""

    elit_edge: str
    measured: dict[str, Measured]


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
    candidates, passed_over = _candidates(files, runtime, precision)
    path = _store_path(files)
    if not measure_missing:
        return _judged(candidates, _read(path, report), passed_over, threads)
    with _locked(path, report) as writable:
        known = _read(path, report)
        added = False
        for key in candidates:
            if _key(key, threads) not in known:
                report(f"measuring {key[0]} {key[1]} on this device (once)")
                found = _in_own_process(files, key, threads)
                if isinstance(found, PassedOver):
                    passed_over.append(found)
                else:
                    known[_key(key, threads)] = found
                    added = True
        if added and writable:
            _write(path, known, report)
    return _judged(candidates, known, passed_over, threads)


def _candidates(
    files: BundleFiles, runtime: str, precision: str | None
) -> tuple[list[tuple[str, str, str]], list[PassedOver]]:
    """(runtime, precision, version) of what could compute this bundle."""
    named: dict[str, Runtime] = dict(all_runtimes()) if runtime == "auto" else {runtime: choose(runtime)}
    candidates: list[tuple[str, str, str]] = []
    passed_over: list[PassedOver] = []
    for name, backend in named.items():
        state = backend.check()
        if not isinstance(state, Ready):
            passed_over.append(PassedOver(name, None, words(state)))
            continue
        able = backend.precisions(files.manifest)
        if precision is not None and precision not in able:
            passed_over.append(PassedOver(name, precision, f"it computes in {', '.join(able) or 'no precision'} alone"))
        candidates += [(name, each, state.version) for each in able if precision in (None, each)]
    candidates.sort(key=lambda key: (key[1] != "fp32", key[0] != "onnxruntime"))
    return candidates, passed_over


def _judged(
    candidates: list[tuple[str, str, str]],
    known: dict[str, Measured],
    passed_over: list[PassedOver],
    threads: int | None,
) -> Profiles:
    """Leave out what does not compute what the first float32 candidate does."""
    found: list[Profile] = []
    reference: Measured | None = None
    lost = list(passed_over)
    for key in candidates:
        measured = known.get(_key(key, threads))
        if measured is None:
            continue
        reference = reference or measured
        parity = psnr_db(np.array(measured.velocity), np.array(reference.velocity))
        gate = min(GATE_DB.get(key[1], math.inf), GATE_DB[reference.profile.precision])
        if measured is not reference and parity < gate:
            beside = f"{reference.profile.runtime} {reference.profile.precision}"
            lost.append(PassedOver(key[0], key[1], f"{parity:.0f} dB from {beside}, and the gate is {gate:.0f} dB"))
        else:
            found.append(measured.profile)
    return Profiles(tuple(found), tuple(lost))


def _ladder_ms(costs: Costs, flops: dict[int, int]) -> float:
    return float(np.exp(np.mean([np.log(costs.pass_ms(latents, 1)) for latents in flops])))


def _key(candidate: tuple[str, str, str], threads: int | None) -> str:
    return " ".join([*candidate, str(threads or "auto")])


def _store_path(files: BundleFiles) -> Path:
    digest = hashlib.sha256(msgspec.json.encode(files.manifest.files, order="sorted")).hexdigest()[:16]
    folder = Path(platformdirs.user_cache_dir("elit-edge", appauthor=False)) / "profiles"
    return folder / f"{identity()}-{digest}.json"


@contextmanager
def _locked(path: Path, report: Report) -> Iterator[bool]:
    """The store is ours alone; yields whether it can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"), timeout=LOCK_S)
        lock.acquire()
    except Timeout:
        report(f"another process has been measuring this bundle for {LOCK_S:.0f} s; going on without the cache")
        yield False
    except OSError as error:
        report(f"no cache at {path.parent} ({error.strerror}); measured again the next time")
        yield False
    else:
        try:
            yield True
        finally:
            lock.release()


def _read(path: Path, report: Report) -> dict[str, Measured]:
    """What is known; nothing where the file is damaged or of another version."""
    try:
        store = msgspec.json.decode(path.read_bytes(), type=_Store)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        report(f"cannot read the cache {path} ({error}); measuring again")
        return {}
    return dict(store.measured) if store.elit_edge == __version__ else {}


def _write(path: Path, known: dict[str, Measured], report: Report) -> None:
    try:
        with appearing_file(path, replace=True) as stream:
            stream.write(msgspec.json.encode(_Store(elit_edge=__version__, measured=known), order="sorted"))
    except RequestError as error:
        report(f"{error}; measured again the next time")


def _in_own_process(files: BundleFiles, key: tuple[str, str, str], threads: int | None) -> Measured | PassedOver:
    runtime, precision, _ = key
    with tempfile.TemporaryDirectory(prefix="elit-edge-") as folder:
        answer = Path(folder, "measured.json")
        command = [sys.executable, "-m", "elit_edge.profiling.worker", str(files.folder), runtime, precision]
        try:
            ran = subprocess.run(  # noqa: S603 - our own module, and a bundle that was checked
                [*command, str(threads or 0), str(answer)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=WORKER_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return PassedOver(runtime, precision, f"not measured within {WORKER_S:.0f} s")
        if ran.returncode != 0 or not answer.exists():
            last = (ran.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
            return PassedOver(runtime, precision, f"it failed when measured: {last}")
        return msgspec.json.decode(answer.read_bytes(), type=Measured)
