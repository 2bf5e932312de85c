"""Small text files under a root such as /: what cannot be read, or says nothing sensible, is None and a note."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from pathlib import Path

LONGEST_FILE_BYTES = 4 << 20
LARGEST_NUMBER = 2**63 - 1
LONGEST_WORD = 200
MOST_CPUS = 4096


class Tree:
    """Reads the files of one machine. Paths are relative to the root, with slashes."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.here = root.resolve() == Path("/").resolve()
        """Whether it is the machine that this process runs on, and not the record of another."""
        self._base = os.fspath(root)
        self._notes: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}

    def note(self, subject: str, reason: str) -> None:
        """State what is not known and why; alike subjects, apart from their numbers, become one note."""
        key = re.sub(r"\d+", "*", subject), reason
        self._notes[key] += 1
        self._examples.setdefault(key, subject)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(
            f"{self._examples[key]}{f' and {count - 1} like it' if count > 1 else ''}: {key[1]}"
            for key, count in self._notes.items()
        )

    def text(self, path: str) -> str | None:
        """The content; None where there is no such file, and a note besides where it cannot be read."""
        try:
            return _content(os.path.join(self._base, path))  # noqa: PTH118 - pathlib costs more than the read
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            self.note(path, getattr(error, "strerror", None) or str(error))
            return None

    def word(self, path: str) -> str | None:
        """The first line, printable and of bounded length; None if empty."""
        text = self.text(path)
        return None if text is None else printable(text)

    def number(self, path: str, low: int = 0, high: int = LARGEST_NUMBER) -> int | None:
        """An integer between bounds; None and a note for anything else."""
        text = self.text(path)
        if text is None:
            return None
        found = integer(text, low, high)
        if found is None:
            self.note(path, f"holds no number from {low} to {high}" if high < LARGEST_NUMBER else "holds no number")
        return found

    def names(self, path: str) -> list[str]:
        """The names in a folder, numbers in them in order; empty where there is none."""
        try:
            found = os.listdir(os.path.join(self._base, path))  # noqa: PTH118, PTH208 - as above
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError) as error:
            self.note(path, getattr(error, "strerror", None) or str(error))
            return []
        return sorted(found, key=_by_numbers)

    def exists(self, path: str) -> bool:
        return os.path.lexists(os.path.join(self._base, path))  # noqa: PTH118 - as above


def printable(text: str) -> str | None:
    """The first line of a text without what cannot be printed; None if nothing is left."""
    line = re.split(r"[\n\x00]", text.strip(" \t\n\r\x00"), maxsplit=1)[0]
    kept = "".join(letter for letter in line if letter.isprintable()).strip()
    return kept[:LONGEST_WORD] or None


def integer(text: str, low: int = 0, high: int = LARGEST_NUMBER) -> int | None:
    """A decimal integer between bounds, else None."""
    stripped = text.strip(" \t\n\r\x00")
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", stripped):
        return None
    number = int(stripped)
    return number if low <= number <= high else None


def cpu_list(text: str | None) -> tuple[int, ...] | None:
    """The CPUs of a list such as "0-3,6"; None if it is no such list, or names absurdly many."""
    if text is None or not (stripped := text.strip()):
        return None
    cpus: list[int] = []
    for part in re.split(r"[,\s]+", stripped):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part, re.ASCII)
        if match is None:
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MOST_CPUS or len(cpus) >= MOST_CPUS:
            return None
        cpus.extend(range(first, last + 1))
    return tuple(cpus)


def _content(path: str) -> str:
    # A named pipe where a file should be would block an ordinary open.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("is no file")
        parts: list[bytes] = []
        left = LONGEST_FILE_BYTES
        while left > 0 and (part := os.read(handle, min(left, 1 << 16))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts).decode("utf-8", "replace")
    finally:
        os.close(handle)


def _by_numbers(name: str) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", name, re.ASCII)], name
