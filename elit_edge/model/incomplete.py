"""Files that are no whole checkpoint: what they are, and how many bytes a partial download lacks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from elit_edge.model.torch_archive import Length, expected_length

START_BYTES = 512
"""As much of a file as tells what it is."""
LONGEST_HEADER_BYTES = 100_000_000
"""Of safetensors, by its own rule."""
POINTER_SIZE = re.compile(rb"^size (\d+)$", re.MULTILINE)
BLANKS = b"\xef\xbb\xbf \t\r\n"
"""What may stand before the first tag of a page."""


def stand_in(start: bytes) -> str | None:
    """What a file is that came in place of a checkpoint, with the remedy; `start` is its beginning."""
    if not start:
        return "is empty; download it again"
    if start.startswith(b"version https://git-lfs"):
        size = POINTER_SIZE.search(start)
        stood_for = f" of {size[1].decode()} bytes" if size else ""
        return f"is a pointer of git-lfs to a file{stood_for}, not that file; fetch it: git lfs pull"
    if start.lstrip(BLANKS).startswith(b"<"):
        return (
            "is a web page, which the server sent in place of the checkpoint; "
            "open its link in a browser to see what is asked for, and download it again"
        )
    return None


def shortfall(path: Path) -> str | None:
    """How many bytes a partial download lacks, with the remedy; None where nothing says that any are missing.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(len(b"PK"))
        expected = expected_length(stream) if start == b"PK" else _expected_safetensors(stream, size)
    if expected is None or expected.bytes <= size:
        return None
    missing = expected.bytes - size
    if not expected.exact:
        return f"is a partial download: it has {size} bytes, and at least {missing} are missing; download it again"
    share = f"{missing / expected.bytes:.1%}"
    of = f"{size} of {expected.bytes} bytes"
    return f"is a partial download: it has {of}, {missing} ({share}) are missing; download it again"


def _expected_safetensors(stream: BinaryIO, size: int) -> Length | None:
    """Eight bytes say how long the header is, and the header where the data ends."""
    stream.seek(0)
    header_bytes = int.from_bytes(stream.read(8), "little")
    if header_bytes > LONGEST_HEADER_BYTES:
        return None
    data = 8 + header_bytes
    if size < data:
        return Length(data, exact=False)
    try:
        header = msgspec.json.decode(stream.read(header_bytes), type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        places = [msgspec.json.decode(entry, type=_Place) for entry in header.values()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return Length(data + max((place.data_offsets[1] for place in places), default=0), exact=True)


class _Place(msgspec.Struct):
    """Of a tensor's entry, where its bytes stand behind the header."""

    data_offsets: tuple[int, Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]]
