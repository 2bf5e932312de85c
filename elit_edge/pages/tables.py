"""Tables as terminal and pages show them alike, and how figures are written in them. Nothing is escaped here."""

from __future__ import annotations

from dataclasses import dataclass, replace

NONE = "–"
"""Not measured, or not known."""


@dataclass(frozen=True)
class Sheet:
    """A table; the first column names the row."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True
    """Or words, which may run over several lines."""

    def without(self, *heads: str) -> Sheet:
        """The same with fewer columns."""
        kept = [index for index, head in enumerate(self.heads) if head not in heads]
        rows = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return replace(self, heads=tuple(self.heads[index] for index in kept), rows=rows)


def figure(value: float | None, digits: int = 3) -> str:
    """A measured number in significant digits, without an exponent for what tables hold."""
    if value is None:
        return NONE
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text and abs(value) >= 1 else text
