"""Classes by name: how what a user types becomes a number, and what is said where it does not.

A class has one string, and its synonyms stand inside it, ", " between them, as ImageNet lists them: "tench, Tinca
tinca". So a list of names stays a plain list of strings in config, manifest and file.
"""

from __future__ import annotations

import contextlib
import difflib
import operator
from collections.abc import Iterable, Sequence

from elit_edge.errors import RequestError

SEPARATOR = ", "
FEW = 12
"""So many names are listed whole; of more, a few."""
NEAREST = 5


def find(wanted: str | int, names: Sequence[str], count: int) -> int:
    """The number of a class.

    Args:
        wanted: the class's whole name, its number, or one of its synonyms in any case; tried in this order.
        names: a string a class, synonyms inside; empty where classes have no names.
        count: classes, numbered from 0.

    Raises:
        RequestError: no class is meant, or several are; names those that are near, never all of many.
    """
    if isinstance(wanted, str) and names.count(wanted) == 1:
        return names.index(wanted)
    number = _number(wanted)
    if number is not None and 0 <= number < count:
        return number
    bearers = _bearers(names)
    meant = bearers.get(wanted.lower(), []) if isinstance(wanted, str) else []
    if len(meant) == 1:
        return meant[0]
    if meant:
        each = "; ".join(f"{number} ({names[number]})" for number in meant[:NEAREST])
        more = f"; and {len(meant) - NEAREST} more" if len(meant) > NEAREST else ""
        raise RequestError(f"label {wanted!r} means {len(meant)} classes: {each}{more}; give a number or another name")
    raise RequestError(f"unknown label {wanted!r}; {_advice(wanted, names, bearers)} number from 0 to {count - 1}")


def in_short(names: Sequence[str]) -> str:
    """The first name of each class, or of the first and the last of many."""
    first = [_first(name) for name in names]
    return ", ".join(first) if len(first) <= FEW else f"{len(first)}: {', '.join(first[:3])} ... {first[-1]}"


def _first(name: str) -> str:
    return name.partition(SEPARATOR)[0]


def _number(wanted: object) -> int | None:
    with contextlib.suppress(TypeError, ValueError):  # no number, or one of thousands of digits
        if not isinstance(wanted, str):
            return operator.index(wanted)  # type: ignore[arg-type]
        if wanted.isdecimal():
            return int(wanted)
    return None


def _bearers(names: Iterable[str]) -> dict[str, list[int]]:
    """Every whole name and synonym in lower case, and the classes that bear it."""
    bearers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        whole = name.lower()
        for each in dict.fromkeys((whole, *whole.split(SEPARATOR))):
            bearers.setdefault(each, []).append(number)
    return bearers


def _advice(wanted: object, names: Sequence[str], bearers: dict[str, list[int]]) -> str:
    """What to give instead, up to "... number from 0"."""
    if not names:
        return "give a"
    if len(names) <= FEW:
        return f"give one of: {in_short(names)}; or a"
    near = _nearest(wanted, bearers) if isinstance(wanted, str) else []
    if near:
        return f"nearest: {', '.join(f'{_first(names[number])} ({number})' for number in near)}; give a name or a"
    return "give a name (elit-edge inspect BUNDLE --json lists them) or a"


def _nearest(wanted: str, bearers: dict[str, list[int]]) -> list[int]:
    """The nearest few classes: those with `wanted` among their words, then names spelled alike, then any part."""
    asked = wanted.lower().strip()
    if not asked:
        return []
    words = [name for name in bearers if f" {asked} " in f" {name} "]
    alike = difflib.get_close_matches(asked, bearers, n=NEAREST)
    parts = [name for name in bearers if asked in name]
    return list(dict.fromkeys(number for name in (*words, *alike, *parts) for number in bearers[name]))[:NEAREST]
