"""How long a file of torch.save should be, told from its beginning: the index of a zip stands at its end, where a
partial download has none.

The pickle that comes first names every storage and its length. It is scanned, never unpickled: no opcode is obeyed. The
layout was found in files of torch 2.13 and of versions before 2.1: records in a known order, data aligned to 64 bytes,
descriptors behind them, zip64 beyond 4 GiB.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

MOST_PICKLE_BYTES = 4 << 20
"""Ten times the pickle of a published XL checkpoint; what is longer is not scanned to its end."""

MOST_NUMBERS = 1 << 53
"""In one storage: more than any file holds."""

HEADER = struct.Struct("<4s5H3I2H")
HEADER_SIGNATURE, ENTRY_SIGNATURE, END_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
ENTRY_BYTES, END_BYTES = 46, 22
ZIP64_END_BYTES = 56 + 20
PADDING_HEADER_BYTES = 4
DESCRIPTOR_BYTES, WIDE_DESCRIPTOR_BYTES = 16, 24
ALIGNMENT = 64
WIDE_FROM = 0xFFFF_FFFF
"""The size or the offset from which zip64 fields are written."""

ITEM_BYTES = {
    "Untyped": 1,
    "Byte": 1,
    "Char": 1,
    "Bool": 1,
    "Short": 2,
    "Half": 2,
    "BFloat16": 2,
    "Int": 4,
    "Float": 4,
    "Long": 8,
    "Double": 8,
    "ComplexFloat": 8,
    "ComplexDouble": 16,
}

Record = tuple[bytes, int]
"""The name of a record inside the archive, and its bytes."""

BYTE_ORDER: Record = (b"byteorder", len("little"))
FORMAT: Record = (b".format_version", 1)
ALIGNED: Record = (b".storage_alignment", 2)
VERSION: Record = (b"version", 2)
IDENTITY: Record = (b".data/serialization_id", 40)
OLD_HEADS: Sequence[Sequence[Record]] = ((), (BYTE_ORDER,))
"""With these, storages stand in the order of their keys as text."""
HEADS: Sequence[Sequence[Record]] = ((FORMAT, BYTE_ORDER), (FORMAT, ALIGNED, BYTE_ORDER))
"""With these, they stand in the order in which the pickle names them."""


@dataclass(frozen=True)
class Length:
    """What a file should be long; at least so much, where it is not exact."""

    bytes: int
    exact: bool


def expected_length(stream: BinaryIO) -> Length | None:
    """The whole length of the archive whose beginning `stream` holds; None where that cannot be told.

    A file that has its end, or is no archive of torch.save, cannot be told. Nothing that a file holds makes this raise,
    run code, or take more than some seconds.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - END_BYTES))
    if stream.read(len(END_SIGNATURE)) == END_SIGNATURE:
        return None
    stream.seek(0)
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size or not header.startswith(HEADER_SIGNATURE):
        return None
    *_, name_bytes, extra_bytes = HEADER.unpack(header)
    root, slash, leaf = stream.read(name_bytes).rpartition(b"/")
    if leaf != b"data.pkl":
        return None
    start = stream.seek(HEADER.size + name_bytes + extra_bytes)
    pickled = stream.read(MOST_PICKLE_BYTES)
    try:
        storages, end = scan(pickled)
    except ValueError:
        return None
    if end is None:
        return Length(start + len(pickled) + 1 + sum(storages.values()), exact=False)
    lengths = {
        length
        for records in _possible_records(root + slash, end, storages)
        if (length := _length_if_so(stream, size, records)) is not None
    }
    return Length(min(lengths, default=start + end + sum(storages.values())), exact=len(lengths) == 1)


def scan(pickled: bytes) -> tuple[Mapping[bytes, int], int | None]:
    """Read what a pickle of torch.save says of its storages, without unpickling.

    Returns:
        Each storage's bytes by its key, in the order of the pickle, and where the pickle ends: None where it is cut.

    Raises:
        ValueError: it is none of torch's.
    """
    stream, storages = io.BytesIO(pickled), dict[bytes, int]()
    pushed, memo = deque[object](maxlen=5), dict[object, object]()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "BINPERSID":
                key, length = _storage(pushed)
                storages[key] = length
            elif opcode.name in {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}:
                memo[len(memo) if argument is None else argument] = pushed[-1] if pushed else None
            elif opcode.name in {"GET", "BINGET", "LONG_BINGET"}:
                pushed.append(memo.get(argument))
            elif argument is not None:
                pushed.append(argument)
    except ValueError:
        if stream.tell() < len(pickled):
            raise
        return storages, None
    return storages, stream.tell()


def _storage(pushed: Sequence[object]) -> tuple[bytes, int]:
    """The key and the bytes of a storage from the five values before its opcode: torch's persistent id."""
    match list(pushed):
        case ["storage", str(kind), str(key), str(), int(count)] if 0 <= count <= MOST_NUMBERS:
            name = kind.rpartition(" ")[2].removesuffix("Storage")
            if name in ITEM_BYTES:
                return key.encode(errors="replace"), count * ITEM_BYTES[name]
    raise ValueError("no persistent id of a storage")


def _possible_records(root: bytes, pickle_bytes: int, storages: Mapping[bytes, int]) -> Iterator[list[Record]]:
    """All records, in the order of every torch that may have written them."""
    data = [(b"data/" + key, length) for key, length in storages.items()]
    orders = [(head, sorted(data), tail) for head in OLD_HEADS for tail in ([VERSION], [VERSION, IDENTITY])]
    orders += [(head, data, [VERSION, IDENTITY]) for head in HEADS]
    for head, stored, tail in orders:
        yield [(root + name, length) for name, length in [(b"data.pkl", pickle_bytes), *head, *stored, *tail]]


def _length_if_so(stream: BinaryIO, size: int, records: Sequence[Record]) -> int | None:
    """The length of an archive of these records; None where what is there of the file has others."""
    offset, directory = 0, 0
    for name, length in records:
        if offset + HEADER.size + len(name) <= size:
            stream.seek(offset)
            header = stream.read(HEADER.size + len(name))
            if not (header.startswith(HEADER_SIGNATURE) and header.endswith(name)):
                return None
        wide = 16 * (length >= WIDE_FROM) + 8 * (offset >= WIDE_FROM)
        zip64 = wide + 4 if wide else 0
        data = offset + HEADER.size + len(name) + zip64 + PADDING_HEADER_BYTES
        descriptor = (WIDE_DESCRIPTOR_BYTES if wide else DESCRIPTOR_BYTES) if length else 0
        offset = data + -data % ALIGNMENT + length + descriptor
        directory += ENTRY_BYTES + len(name) + zip64
    stream.seek(offset)
    if not ENTRY_SIGNATURE.startswith(stream.read(len(ENTRY_SIGNATURE))):
        return None
    return offset + directory + ZIP64_END_BYTES + END_BYTES
