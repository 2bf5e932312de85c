"""A bundle on disk: opened only after every path and digest was checked, written whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from elit_edge.errors import BundleError
from elit_edge.files import current_umask
from elit_edge.manifest import MANIFEST_FILE, FileEntry, Graph, Manifest, decode, encode

GRAPH_FOLDER, CALIBRATION_FOLDER, ENGINE_FOLDER, COREML_FOLDER = "onnx", "calibration", "engines", "coreml"
DECODER_FOLDER = "decoders"
FOLDERS = (GRAPH_FOLDER, CALIBRATION_FOLDER, ENGINE_FOLDER, COREML_FOLDER, DECODER_FOLDER)
"""All that a bundle holds beside its manifest."""
PACKAGE_INDEX = "Manifest.json"
"""What every Core ML package holds."""
CHUNK_BYTES = 1 << 20
MANIFEST_LIMIT_BYTES = 16 << 20
DAMAGED = "the bundle is damaged or was changed; copy or export it again"


class BundleFiles:
    """A checked bundle: its manifest and the real paths of its files."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> BundleFiles:
        """Read the manifest and check that the folder holds just the files it names, byte for byte.

        Raises:
            BundleError: the folder is no bundle, or any path, size or digest is not what the manifest says.
        """
        if not folder.is_dir():
            raise BundleError(f"no bundle at {folder}: expected a folder made by `elit-edge export`")
        manifest_path = folder / MANIFEST_FILE
        if not manifest_path.is_file():
            raise BundleError(f"{folder} is no bundle: it has no {MANIFEST_FILE}; {DAMAGED}")
        if manifest_path.stat().st_size > MANIFEST_LIMIT_BYTES:
            raise BundleError(f"{manifest_path} is larger than any manifest; {DAMAGED}")
        files = cls(folder, decode(manifest_path.read_bytes(), str(manifest_path)))
        files._check_paths()
        files._check_graphs()
        for name, entry in files.manifest.files.items():
            _check_digest(folder / name, entry)
        return files

    @classmethod
    def checked_before(cls, folder: Path) -> BundleFiles:
        """The bundle at a folder whose digests were just checked by the process that started this one."""
        return cls(folder, decode((folder / MANIFEST_FILE).read_bytes(), str(folder)))

    @property
    def digest(self) -> str:
        """Of all graphs and weights, 64 hexadecimal digits; the quality table is no part of it."""
        return hashlib.sha256(msgspec.json.encode(self.manifest.files, order="sorted")).hexdigest()

    def path(self, name: str) -> Path:
        return self.folder / name

    def graph_path(self, graph: Graph) -> Path:
        return self.path(graph.path)

    def _check_paths(self) -> None:
        """No file beyond the listed, no link, nothing that leads outside."""
        for name in self.manifest.files:
            pure = PurePosixPath(name)
            if pure.is_absolute() or ".." in pure.parts or "\\" in name or str(pure) != name:
                raise BundleError(f"{self.folder}: the manifest names {name!r}, no plain path inside it; {DAMAGED}")
        found: set[str] = set()
        for parent, folders, names in os.walk(self.folder):
            for entry in folders + names:
                path = Path(parent, entry)
                info = path.lstat()
                if not (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)):
                    raise BundleError(f"{path} is a link or a special file, and no bundle holds one; {DAMAGED}")
            found.update(Path(parent, name).relative_to(self.folder).as_posix() for name in names)
        wanted = set(self.manifest.files) | {MANIFEST_FILE}
        if found != wanted:
            missing, foreign = sorted(wanted - found), sorted(found - wanted)
            faults = [
                f"{' and '.join(names)} {what}"
                for names, what in ((missing, "missing"), (foreign, "not listed"))
                if names
            ]
            raise BundleError(f"{self.folder}: {', '.join(faults)}; {DAMAGED}")

    def _check_graphs(self) -> None:
        needed = [name for graph in self.manifest.graphs for name in (graph.path, graph.weights)]
        needed += [calibration.record for calibration in self.manifest.calibrations]
        needed += [engine.path for engine in self.manifest.engines]
        needed += [name for decoder in self.manifest.decoders for name in (decoder.path, decoder.weights)]
        needed += [
            f"{function.package}/{PACKAGE_INDEX}" for model in self.manifest.coreml for function in model.functions
        ]
        for name in needed:
            if name not in self.manifest.files:
                raise BundleError(f"{self.folder}: file {name!r} has no digest in the manifest; {DAMAGED}")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_digest(path: Path, entry: FileEntry) -> None:
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(f"{path} has {size} bytes, the manifest says {entry.bytes}; {DAMAGED}")
    if sha256_of(path) != entry.sha256:
        raise BundleError(f"{path} does not match its digest; {DAMAGED}")


@contextmanager
def staged_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """A fresh folder beside `target` that takes its name when the block ends well, and is gone when it does not.

    Raises:
        BundleError: `target` exists and is not to be replaced, or its place cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_debris(target)
        if target.exists() and not replace:
            raise BundleError(f"{target} exists; choose another name, or --force to replace it")
        stage = _sibling(target, "part")
    except OSError as error:
        raise BundleError(f"cannot write to {target.parent}: {error.strerror}") from error
    try:
        yield stage
        for path in [*stage.rglob("*"), stage]:
            _flush(path)
        stage.chmod(0o777 & ~current_umask())
        if target.exists():
            _swap(stage, target)
        else:
            stage.replace(target)
        _flush(target.parent)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


@contextmanager
def revised(files: BundleFiles) -> Iterator[Path]:
    """The bundle's files once more, to be added to: it takes the bundle's place when the block ends well.

    The block adds files and writes the manifest. Files are hard links where the disk has them: nothing is copied, and
    what has the bundle open keeps what it has.

    Raises:
        BundleError: the bundle changed since it was opened, or its place cannot be written.
    """
    folder = files.folder.resolve()
    if BundleFiles.checked_before(folder).manifest != files.manifest:
        raise BundleError(f"{folder} has changed since it was opened; run the command again")
    with staged_folder(folder, replace=True) as stage:
        for name in files.manifest.files:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                (stage / name).hardlink_to(folder / name)
            except OSError:
                shutil.copyfile(folder / name, stage / name)
        yield stage


def check_replaceable(target: Path) -> None:
    """Refuse to replace what is somebody's other folder; a bundle may be damaged.

    Raises:
        BundleError: it is none.
    """
    if not target.exists():
        return
    names = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if MANIFEST_FILE not in names or not names <= {MANIFEST_FILE, *FOLDERS}:
        raise BundleError(f"{target} is no bundle, and --force replaces bundles alone; choose another name")


def _sibling(target: Path, kind: str) -> Path:
    """A fresh hidden folder beside `target`, whose name tells which process made it."""
    return Path(tempfile.mkdtemp(prefix=f".{target.name}.{kind}-{os.getpid()}-", dir=target.parent))


def _swap(stage: Path, target: Path) -> None:
    """Put `stage` in the place of `target`; whatever interrupts this, one of the two stands there in the end."""
    old = _sibling(target, "old")
    target.replace(old / target.name)
    try:
        stage.replace(target)
    except BaseException:
        (old / target.name).replace(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _clear_debris(target: Path) -> None:
    """Remove what killed runs left; a bundle that one of them had set aside goes back to its place."""
    for debris in target.parent.glob(f".{glob.escape(target.name)}.*-*-*"):
        kind, pid = debris.name.removeprefix(f".{target.name}.").split("-")[:2]
        if kind not in ("part", "old") or not pid.isdecimal() or _is_running(int(pid)):
            continue
        if kind == "old" and (debris / target.name).exists() and not target.exists():
            (debris / target.name).replace(target)
        shutil.rmtree(debris, ignore_errors=True)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_FILE).write_bytes(encode(manifest))


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Digest and size of every file below a folder, but for the manifest."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    return {path.relative_to(folder).as_posix(): file_entry(path) for path in paths}


def file_entry(path: Path) -> FileEntry:
    """Digest and size of a file."""
    return FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)


def _flush(path: Path) -> None:
    """Bring a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
