"""Adding to a bundle what was compiled from it: one process at a time, the bundle as a whole or as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from elit_edge.bundle_files import BundleFiles, revised
from elit_edge.errors import BundleError
from elit_edge.files import cache_folder

LOCK_S = 900.0
"""A process waits so long for another that compiles for the same place."""


@contextmanager
def adding(files: BundleFiles) -> Iterator[tuple[BundleFiles, Path]]:
    """The bundle as it is now, and a folder with its files that takes its place when the block ends well.

    Raises:
        BundleError: the bundle changed since it was opened, its place cannot be written, or another process has been
            at it for too long.
    """
    with alone(files.folder.resolve()):
        current = _as_it_is_now(files)
        with _writing(current.folder), revised(current) as stage:
            yield current, stage


def _as_it_is_now(files: BundleFiles) -> BundleFiles:
    """Another process may have compiled while this one waited; then every digest is checked anew."""
    folder = files.folder.resolve()
    if BundleFiles.checked_before(folder).manifest == files.manifest:
        return BundleFiles(folder, files.manifest)
    return BundleFiles.open(folder)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raises:
    BundleError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise BundleError(f"cannot write to {folder}: {error.strerror or error}; the bundle is as it was") from error


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """No other process compiles for the same place at the same time.

    Raises:
        BundleError: another one has been at it for too long, or the cache, which holds the lock, cannot be written.
    """
    name = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    folder = cache_folder("locks")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock", timeout=LOCK_S)
        lock.acquire()
    except Timeout as error:
        raise BundleError(
            f"another process has been compiling for {place} for {LOCK_S:.0f} s; wait for it, or end it"
        ) from error
    except OSError as error:
        raise BundleError(
            f"the cache {folder} cannot be written ({error.strerror or error}), and one build at a time is kept there; "
            "set XDG_CACHE_HOME to a folder that can be"
        ) from error
    try:
        yield
    finally:
        lock.release()
