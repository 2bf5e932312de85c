"""Names of classes that no checkpoint holds: from a file of the user's, or ImageNet's."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec

from elit_edge.errors import ConfigError
from elit_edge.labels import SEPARATOR

IMAGENET_CLASSES = 1000


def imagenet_class_names() -> tuple[str, ...]:
    """ImageNet's 1,000, in the order of its labels; data/NOTICE.md says where they come from."""
    data = (resources.files("elit_edge.data") / "imagenet-classes.json").read_bytes()
    return msgspec.json.decode(data, type=tuple[str, ...])


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names in a UTF-8 file, class 0 first: one a line, or a JSON list; a class's synonyms have ", " between them.

    Raises:
        ConfigError: the file is missing or no such list, or a name is empty or stands twice.
    """
    source = f"class names {path}"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is no UTF-8 text (byte {error.start}); save it as UTF-8") from error
    names = tuple(name.strip() for name in _listed(text, source))
    known: dict[str, int] = {}
    for number, name in enumerate(names):
        if not all(map(str.strip, name.split(SEPARATOR))):
            raise ConfigError(f"{source}: class {number} has an empty name ({name!r}); classes count from 0")
        if known.setdefault(name, number) != number:
            raise ConfigError(f"{source}: classes {known[name]} and {number} are both {name!r}; tell them apart")
    return names


def _listed(text: str, source: str) -> tuple[str, ...] | list[str]:
    if not text.lstrip().startswith(("[", "{")):
        return text.rstrip().split("\n")
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"{source} is no JSON list of names: {error}; or give one name a line") from error
