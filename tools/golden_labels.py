"""Golden vectors of labels by name: which class is meant, and which ones are where a name is ambiguous."""

from __future__ import annotations

from typing import Any

from elit_edge.errors import RequestError
from elit_edge.labels import find
from golden_numbers import NOTE

Json = dict[str, Any]

NAMES = (
    "tench, Tinca tinca",
    "crane, crane bird",
    "crane, construction crane",
    "harmonica, mouth organ, harp",
    "harp",
    "Cardigan, Cardigan Welsh corgi",
    "cardigan",
    "saw",
    "saw",
    "rip saw, saw",
    "étoile ★, ÉTÉ",
    "golden retriever",
    "Labrador retriever",
)
WANTED = (
    *("tench", "Tinca tinca", "tench, tinca TINCA", "TENCH", "harp", "cardigan", "crane bird", "été", "Étoile ★"),
    *("crane", "Crane", "Harp", "Cardigan", "saw", "SAW"),
    *("tinca", "retriever", "GOLDEN", "gold", "crane ", "", " ", "★"),
)


def case(wanted: str) -> Json:
    """The number; or what is said of the classes that are meant; or neither, where none is."""
    try:
        return {"wanted": wanted, "number": find(wanted, NAMES, len(NAMES)), "means": None}
    except RequestError as error:
        _, ambiguous, rest = str(error).partition(" means ")
        return {"wanted": wanted, "number": None, "means": rest if ambiguous else None}


def files() -> dict[str, Json]:
    """The content of each file."""
    return {"labels.json": {"note": NOTE, "names": NAMES, "cases": [case(wanted) for wanted in WANTED]}}
