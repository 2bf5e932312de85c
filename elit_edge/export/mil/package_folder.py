"""The folder of an .mlpackage: its parts, and that nothing else hides among them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from elit_edge.errors import PackageError

MANIFEST, MODEL, WEIGHTS = "Manifest.json", "model.mlmodel", "weights"
ITEM_FOLDER = "com.apple.CoreML"
MANIFEST_LIMIT_BYTES = 1 << 20
MODEL_LIMIT_BYTES = (2 << 30) - 1
"""Protobuf's own limit."""
BLOB_PREFIX = f"@model_path/{WEIGHTS}/"
"""How a program names a weight file."""
DAMAGED = "the package is damaged; write it again"


def check_folder(package: Path) -> None:
    """Plain files, laid out as packages are.

    Raises:
        PackageError: there is no package, a part is missing or of no sane size, or there is a link.
    """
    if not package.is_dir():
        raise PackageError(f"no package at {package}: expected a folder NAME.mlpackage")
    for entry in package.rglob("*"):
        mode = entry.lstat().st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise PackageError(f"{entry} is a link or a special file, and no package holds one; {DAMAGED}")
    manifest = package / MANIFEST
    for file, limit in ((manifest, MANIFEST_LIMIT_BYTES), (model_path(package), MODEL_LIMIT_BYTES)):
        if not file.is_file():
            raise PackageError(f"{package} is no package: it has no {file.relative_to(package)}; {DAMAGED}")
        if not 0 < file.stat().st_size <= limit:
            raise PackageError(f"{file} has {file.stat().st_size} bytes, expected 1 to {limit}; {DAMAGED}")
    try:
        listed = json.loads(manifest.read_bytes())
        root = listed["itemInfoEntries"][listed["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise PackageError(f"{manifest} does not name the model of its package ({error!r}); {DAMAGED}") from error
    if root != f"{ITEM_FOLDER}/{MODEL}":
        raise PackageError(f"{manifest} names {root!r} as its model, expected {ITEM_FOLDER}/{MODEL}; {DAMAGED}")


def model_path(package: Path) -> Path:
    return package / "Data" / ITEM_FOLDER / MODEL


def weight_path(package: Path, name: str) -> Path:
    """Of a weight file by the name that a program gives it.

    Raises:
        PackageError: the name leads elsewhere, or there is no such file.
    """
    own = name.removeprefix(BLOB_PREFIX)
    path = package / "Data" / ITEM_FOLDER / WEIGHTS / own
    if own == name or Path(own).name != own or not path.is_file():
        raise PackageError(f"{package}: its weights are in {name}, which is missing; {DAMAGED}")
    return path
