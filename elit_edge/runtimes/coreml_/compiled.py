"""Packages as Core ML compiled them on this Mac: once for each content and system, in the user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from filelock import FileLock

from elit_edge.bundle_files import BundleFiles, file_entry, staged_folder
from elit_edge.errors import BundleError
from elit_edge.files import cache_folder
from elit_edge.manifest import FileEntry, Manifest
from elit_edge.runtimes.coreml_ import system
from elit_edge.runtimes.coreml_.library import coremltools

MODEL, RECORD, SETTLED = "model.mlmodelc", "record.json", "settled"


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands beside a compiled model."""

    macos: str
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class CompiledPackage:
    """A folder of the cache: what Core ML made of a package, and a record of it."""

    folder: Path

    @property
    def model(self) -> Path:
        """What Core ML opens."""
        return self.folder / MODEL

    @property
    def is_settled(self) -> bool:
        """Whether each function was opened here once, so that Core ML has made for this device what it needs."""
        return (self.folder / SETTLED).exists()

    def settled(self) -> None:
        """Remember that."""
        (self.folder / SETTLED).touch()


def compiled(files: BundleFiles, package: str, report: Callable[[str], None] = lambda _: None) -> CompiledPackage:
    """A package as this Mac's Core ML has compiled it: from the cache, whose digests are checked, or now.

    Args:
        files: a checked bundle.
        package: one of its .mlpackage folders.
        report: told when it has to be compiled.

    Raises:
        BundleError: Core ML refuses the package, or the cache cannot be written.
    """
    folder = cache_folder("coreml") / package_digest(files.manifest, package)[:32]
    here = system.words(system.macos())
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_whole(folder, here):
                report(f"compiling {package} for this Mac (once)")
                with staged_folder(folder, replace=True) as stage:
                    _compile(files.path(package), stage / MODEL)
                    (stage / RECORD).write_bytes(msgspec.json.encode(_Record(here, _entries(stage / MODEL))))
    except OSError as error:
        raise BundleError(
            f"cannot keep compiled Core ML packages in {folder.parent}: {error.strerror or error}; free some space, or "
            "let it be written"
        ) from error
    return CompiledPackage(folder)


def package_digest(manifest: Manifest, package: str) -> str:
    """Of all files of a package, 64 hexadecimal digits."""
    own = {
        name.removeprefix(package): entry.sha256
        for name, entry in manifest.files.items()
        if name.startswith(f"{package}/")
    }
    return hashlib.sha256(msgspec.json.encode(own, order="sorted")).hexdigest()


def _is_whole(folder: Path, here: str) -> bool:
    """Whether a folder holds, byte for byte, what was compiled under this very macOS."""
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=_Record)
        return record.macos == here and bool(record.files) and _entries(folder / MODEL) == record.files
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _entries(model: Path) -> dict[str, FileEntry]:
    paths = sorted(path for path in model.rglob("*") if path.is_file())
    return {path.relative_to(model).as_posix(): file_entry(path) for path in paths}


def _compile(package: Path, target: Path) -> None:
    library = coremltools()
    try:
        library.utils.compile_model(str(package), str(target))
    except OSError:
        raise
    except Exception as error:  # Core ML's errors have no class of their own
        raise BundleError(
            f"Core ML does not compile {package.name}: {error}; elit-edge verify BUNDLE says whether it is whole, "
            "elit-edge compile BUNDLE --target coreml makes it again"
        ) from error
