"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from elit_edge.errors import RequestError


@contextmanager
def appearing_file(path: Path, *, replace: bool) -> Iterator[IO[bytes]]:
    """A temporary file beside `path` that takes its name when the block ends well, and is gone when it does not.

    Raises:
        RequestError: `path` exists and is not to be replaced, or its place cannot be written.
    """
    refuse_existing(path, replace=replace)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.chmod(0o666 & ~current_umask())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror or error}; choose another place with -o") from error


def current_umask() -> int:
    """The permissions that new files leave out; temporary ones leave out more."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refuse_existing(path: Path, *, replace: bool) -> None:
    """Ask before the work rather than after it.

    Raises:
        RequestError: `path` exists and is not to be replaced, or can be no name of a file.
    """
    try:
        taken = path.exists()
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}; choose another place with -o") from error
    if not path.parent.is_dir():
        raise RequestError(f"cannot write {path}: there is no folder {path.parent}; choose another place with -o")
    if taken and not replace:
        raise RequestError(f"{path} exists; choose another name, or --force to replace it")


def cache_folder(kind: str) -> Path:
    """Where the user's cache keeps what was measured; it need not exist yet."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("elit-edge", appauthor=False)) / kind
