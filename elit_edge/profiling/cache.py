"""What was measured of a bundle on this device, in the user's cache: one file, locked, written whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from elit_edge.bundle_files import BundleFiles
from elit_edge.device import identity
from elit_edge.errors import RequestError
from elit_edge.files import appearing_file, cache_folder
from elit_edge.profiling.decoder_worker import MeasuredDecoder
from elit_edge.profiling.worker import Measured
from elit_edge.version import __version__

LOCK_S = 300.0
"""A process waits so long for another that measures the same bundle; then it measures without the cache."""

Report = Callable[[str], None]
"""Told what is being done; only where something has to be measured."""


class Known(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The content of the file."""

    elit_edge: str
    measured: dict[str, Measured] = {}
    """By runtime, precision, version and threads."""
    duels: dict[str, float] = {}
    """Time of one over that of another, side by side; by both."""
    decoders: dict[str, MeasuredDecoder] = {}
    """By runtime, kind, version and threads."""


def cache_path(files: BundleFiles) -> Path:
    """Its name says device and bundle: what changes either is measured anew."""
    return cache_folder("profiles") / f"{identity()}-{files.digest[:16]}.json"


@contextmanager
def locked(path: Path, report: Report) -> Iterator[bool]:
    """The file is ours alone; yields whether it can be written."""
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


def read(path: Path, report: Report) -> Known:
    """What is known; nothing where the file is damaged or of another version."""
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Known)
    except FileNotFoundError:
        return Known(elit_edge=__version__)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        report(f"cannot read the cache {path} ({error}); measuring again")
        return Known(elit_edge=__version__)
    return known if known.elit_edge == __version__ else Known(elit_edge=__version__)


def write(path: Path, known: Known, report: Report) -> None:
    """Replace the file; where that cannot be done, say so."""
    try:
        with appearing_file(path, replace=True) as stream:
            stream.write(msgspec.json.encode(known, order="sorted"))
    except RequestError as error:
        report(f"{error}; measured again the next time")
