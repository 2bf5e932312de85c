"""Under what conditions a bench runs: read before and after, and the parts that make two reports comparable."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from elit_edge.bench.report import Candidate, Context
from elit_edge.device import Device
from elit_edge.device.thermal import read_frequencies, read_thermal
from elit_edge.device.tree import Tree
from elit_edge.manifest import Manifest
from elit_edge.version import __version__

BUSY_LOAD = 1.0
KINDS = ("device", "bundle", "threads", "versions")
"""Of the parts of a context; every part that is none of the first three is a version."""


def kind_of(part: str) -> str:
    return part if part in KINDS else "versions"


def load_average() -> float | None:
    """Of the last minute; None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def identity_of(
    device: Device, manifest: Manifest, threads: int | None, candidates: Iterable[Candidate]
) -> dict[str, str]:
    """What makes two reports comparable, by name. The quality table is no part of the bundle's speed."""
    return {each.runtime: each.version for each in candidates} | {
        "device": device.identity,
        "bundle": hashlib.sha256(msgspec.json.encode(manifest.files, order="sorted")).hexdigest(),
        "threads": "auto" if threads is None else str(threads),
        "elit-edge": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def context_of(device: Device, load_start: float | None, identity: dict[str, str]) -> Context:
    """To be called just after the last pass."""
    tree = Tree(Path("/"))
    return Context(
        identity=identity,
        device=device,
        end_frequencies=read_frequencies(tree),
        end_thermal=read_thermal(tree),
        load_start=load_start,
        load_end=load_average(),
        busy=None if load_start is None else load_start >= BUSY_LOAD,
    )
