"""Engines on disk: those of the bundle, and those that were compiled anew for this device, in the user's cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from elit_edge.bundle_files import BundleFiles, sha256_of, staged_folder
from elit_edge.errors import BundleError
from elit_edge.files import cache_folder
from elit_edge.manifest import Engine, FileEntry, Role
from elit_edge.runtimes.tensorrt_.fitting import Here, differences, rebuild_command

ROLES: tuple[Role, ...] = ("condition", "velocity")
RECORD = "engines.json"


@dataclass(frozen=True)
class StoredEngine:
    """An engine, and the file that holds it."""

    engine: Engine
    path: Path
    entry: FileEntry

    def read(self) -> bytes:
        """The engine's bytes, whose digest is that of the record.

        Raises:
            BundleError: they are not what was written.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise BundleError(f"{self.path} cannot be read: {error.strerror}; compile the bundle again") from error
        if hashlib.sha256(data).hexdigest() != self.entry.sha256:
            raise BundleError(f"{self.path} does not match its digest: it is damaged; compile the bundle again")
        return data


Pair = dict[Role, StoredEngine]
"""What a session needs: one engine a role."""


class _Rebuilt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record of a folder of the cache."""

    engines: tuple[Engine, ...]
    files: dict[str, FileEntry]


def of_bundle(files: BundleFiles, library: str, precision: str) -> Pair:
    """The bundle's engines, whether they open here or not; empty where it has none."""
    return _pair(files.folder, files.manifest.engines, files.manifest.files, library, precision)


def _pair(
    folder: Path, engines: tuple[Engine, ...], entries: dict[str, FileEntry], library: str, precision: str
) -> Pair:
    found = {
        engine.role: StoredEngine(engine, folder / engine.path, entries[engine.path])
        for engine in engines
        if (engine.library, engine.precision) == (library, precision) and engine.path in entries
    }
    return found if all(role in found for role in ROLES) else {}


def rebuilt_folder(files: BundleFiles, precision: str, at: Here) -> Path:
    """Where the cache keeps what was compiled of these very graphs, by this library, for this GPU; whether it is for
    this driver too, the engine itself says."""
    graphs = [files.manifest.graph(role, precision) for role in ROLES]
    names = sorted({name for graph in graphs for name in (graph.path, graph.weights)})
    graphs_here = [files.manifest.files[name].sha256 for name in names]
    facts = (graphs_here, at.library, at.version, at.platform, at.gpu.name, at.gpu.compute_capability)
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()
    return cache_folder("engines") / f"{at.library}-{precision}-{digest[:16]}"


def rebuilt(files: BundleFiles, precision: str, at: Here) -> Pair:
    """What was compiled anew before; empty where nothing was, or what there is is damaged."""
    folder = rebuilt_folder(files, precision, at)
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=_Rebuilt)
        pair = _pair(folder, record.engines, record.files, at.library, precision)
        whole = all(each.path.parent == folder and sha256_of(each.path) == each.entry.sha256 for each in pair.values())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return pair if whole else {}


def keep_rebuilt(files: BundleFiles, precision: str, at: Here, made: dict[Role, tuple[Engine, memoryview]]) -> Pair:
    """Put engines into the cache, whole or not at all.

    Raises:
        BundleError: the cache cannot be written.
    """
    folder = rebuilt_folder(files, precision, at)
    engines = tuple(msgspec.structs.replace(engine, path=Path(engine.path).name) for engine, _ in made.values())
    entries = {}
    try:
        with staged_folder(folder, replace=True) as stage:
            for engine in engines:
                data = made[engine.role][1]
                (stage / engine.path).write_bytes(data)
                entries[engine.path] = FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=data.nbytes)
            (stage / RECORD).write_bytes(msgspec.json.encode(_Rebuilt(engines, entries)))
    except OSError as error:
        raise BundleError(
            f"cannot keep engines in {folder.parent}: {error.strerror or error}; free some space"
        ) from error
    return rebuilt(files, precision, at)


def fitting(files: BundleFiles, precision: str, at: Here) -> Pair:
    """The engines to open here.

    Raises:
        BundleError: there are none that this machine opens; the message names both sides and what to type.
    """
    own = of_bundle(files, at.library, precision)
    faults = mismatch(own, at)
    if own and not faults:
        return own
    kept = rebuilt(files, precision, at)
    if kept and not mismatch(kept, at):
        return kept
    command = rebuild_command(files.folder, at.library, precision)
    if not own:
        raise BundleError(f"bundle {files.manifest.name} has no {precision} engine for {at.library}; run: {command}")
    raise BundleError(
        f"the {precision} engine of bundle {files.manifest.name} does not open here: {'; '.join(faults)} "
        f"(here: {at.words()}). Compile it again: {command}"
    )


def mismatch(pair: Pair, at: Here) -> list[str]:
    """What keeps engines from opening here, each fact once."""
    return list(dict.fromkeys(fault for stored in pair.values() for fault in differences(stored.engine, at)))
