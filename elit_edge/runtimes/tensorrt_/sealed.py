"""Files of a library's own making, kept beside its use: their digest is checked before the library sees a byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

from elit_edge.errors import RequestError
from elit_edge.files import appearing_file

MAGIC = b"elit-edge sealed\n"
DIGEST_BYTES = hashlib.sha256().digest_size


def write_sealed(path: Path, data: bytes) -> None:
    """Replace the file, whole or not at all.

    Raises:
        RequestError: its place cannot be written.
    """
    with appearing_file(path, replace=True) as stream:
        stream.write(MAGIC + hashlib.sha256(data).digest() + data)


def read_sealed(path: Path) -> bytes:
    """What was written.

    Raises:
        RequestError: the file is damaged, or none of ours.
        OSError: it cannot be read.
    """
    found = path.read_bytes()
    start = len(MAGIC) + DIGEST_BYTES
    digest, data = found[len(MAGIC) : start], found[start:]
    if not found.startswith(MAGIC) or hashlib.sha256(data).digest() != digest:
        raise RequestError(f"{path} is damaged, or was not written by elit-edge; delete it, and it is made again")
    return data
