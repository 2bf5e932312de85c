"""What an evaluation has measured so far, in the user's cache: a killed one goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import filelock
import msgspec
import numpy as np
import numpy.typing as npt

from elit_edge.bundle_files import sha256_of
from elit_edge.errors import RequestError
from elit_edge.files import appearing_file, cache_folder
from elit_edge.manifest import FileEntry
from elit_edge.model_config import Count, Digest, ModelConfig, Positive
from elit_edge.quality import Band, Cell
from elit_edge.sampling import GuidanceKind, Solver

STATE_FILE = "state.json"
REFERENCE_FILE = "reference.npy"

Array = npt.NDArray[np.float64]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Recipe(_Struct, frozen=True, kw_only=True):
    """All that a cell depends on but its own plan."""

    elit_edge: str
    model: ModelConfig
    files: dict[str, FileEntry]
    precision: str
    solver: Solver
    guidance: GuidanceKind
    scale: Annotated[float, msgspec.Meta(ge=0)]
    weak_latents: Positive
    reference_steps: Positive
    pictures: Positive
    batch: Positive
    seed: Count
    features_sha256: Digest | None

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class Measured(_Struct, frozen=True, kw_only=True):
    """The state file."""

    recipe_sha256: Digest
    reference_sha256: Digest
    """Of the file of the reference's samples."""
    cells: tuple[Cell, ...] = ()
    bands: tuple[Band, ...] = ()


class State:
    """The folder of one recipe; every change is on the disk at once, whole."""

    def __init__(self, folder: Path, recipe_sha256: str) -> None:
        self._folder, self._recipe_sha256 = folder, recipe_sha256
        self.measured: Measured | None = None

    @property
    def reference(self) -> Array:
        """The reference's samples [N, C, S, S]."""
        samples: Array = np.load(self._folder / REFERENCE_FILE, allow_pickle=False)
        return samples

    def begin(self, reference: Array) -> None:
        with appearing_file(self._folder / REFERENCE_FILE, replace=True) as file:
            np.save(file, reference, allow_pickle=False)
        digest = sha256_of(self._folder / REFERENCE_FILE)
        self._write(Measured(recipe_sha256=self._recipe_sha256, reference_sha256=digest))

    def add(self, found: Cell | Band) -> None:
        assert self.measured is not None, "begin comes first"
        part = "cells" if isinstance(found, Cell) else "bands"
        self._write(msgspec.structs.replace(self.measured, **{part: (*getattr(self.measured, part), found)}))

    def read(self) -> str | None:
        """Take up what is there; the reason where it cannot be used, None where it can or nothing is there."""
        path = self._folder / STATE_FILE
        if not path.exists():
            return None
        try:
            measured = msgspec.json.decode(path.read_bytes(), type=Measured)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"{path} is damaged ({error})"
        reference = self._folder / REFERENCE_FILE
        if measured.recipe_sha256 != self._recipe_sha256:
            return f"{path} is of another evaluation"
        if not reference.is_file() or sha256_of(reference) != measured.reference_sha256:
            return f"{reference} is missing or damaged"
        self.measured = measured
        return None

    def _write(self, measured: Measured) -> None:
        with appearing_file(self._folder / STATE_FILE, replace=True) as file:
            file.write(msgspec.json.format(msgspec.json.encode(measured), indent=1))
        self.measured = measured


@contextmanager
def locked_state(recipe: Recipe) -> Iterator[State]:
    """The state of a recipe, ours alone until the block ends.

    Raises:
        RequestError: another process measures the same.
    """
    digest = recipe.digest
    folder = cache_folder("evaluations") / digest[:24]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / "lock", timeout=0):
            yield State(folder, digest)
    except filelock.Timeout as error:
        raise RequestError("another elit-edge evaluates this bundle in the same way now; wait until it ends") from error
