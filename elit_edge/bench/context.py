"""Under what conditions a bench runs: read before and after, and the parts that make two reports comparable."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from elit_edge.bench.report import Candidate, Context
from elit_edge.bundle_files import BundleFiles
from elit_edge.device import Device
from elit_edge.device.speed import BUSY_LOAD, load_average
from elit_edge.device.thermal import read_frequencies, read_thermal
from elit_edge.device.tree import Tree
from elit_edge.version import __version__

KINDS = ("device", "bundle", "threads", "versions")
"""Of the parts of a context; every part that is none of the first three is a version."""


def kind_of(part: str) -> str:
    return part if part in KINDS else "versions"


def identity_of(
    device: Device, files: BundleFiles, threads: int | None, candidates: Iterable[Candidate]
) -> dict[str, str]:
    """What makes two reports comparable, by name. The quality table is no part of the bundle's speed."""
    return {each.runtime: each.version for each in candidates} | {
        "device": device.identity,
        "bundle": files.digest,
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
