"""The file of a calibration set: an npz of `recipe` and `sha256` (text as bytes), `x`, `t`, `y` and `latents`.

All of it is stored uncompressed, so that the size of a file bounds what reading it takes.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

from elit_edge.calibration.states import SET_COPIES, CalibrationSet, SetRecipe, columns
from elit_edge.errors import CalibrationError, ConfigError
from elit_edge.files import appearing_file
from elit_edge.fit import check_memory
from elit_edge.manifest import Manifest

RECIPE_LIMIT_BYTES = 1 << 20
NPY_HEADER_BYTES = 4096
"""More than numpy writes before the values."""
ZIP_END = struct.Struct("<4s4H2LH")
MEMBERS = ("recipe", "x", "t", "y", "latents", "sha256")
NEW = "make a new one: elit-edge calibrate BUNDLE, without --set"


def save_set(path: Path, found: CalibrationSet, *, replace: bool) -> None:
    """Write a set file; the same set gives the same bytes.

    Raises:
        RequestError: `path` exists and is not to be replaced, or its place cannot be written.
    """
    values: dict[str, npt.NDArray[Any]] = {
        "recipe": np.frombuffer(found.recipe.encoded(), np.uint8),
        "x": np.asarray(found.x, "<f4", order="C"),
        "t": np.asarray(found.t, "<f4"),
        "y": np.asarray(found.y, "<i8"),
        "latents": np.asarray(found.latents, "<i8"),
        "sha256": np.frombuffer(found.digest.encode(), np.uint8),
    }
    with appearing_file(path, replace=replace) as file, zipfile.ZipFile(file, "w") as archive:
        for name in MEMBERS:
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values[name], version=(1, 0), allow_pickle=False)


def load_set(path: Path, manifest: Manifest, source_sha256: str) -> CalibrationSet:
    """Read a set file, which may come from anywhere: nothing in it is believed before it is checked.

    Args:
        path: written by `save_set`.
        manifest: of the bundle that is to be calibrated.
        source_sha256: `source_digest` of that bundle.

    Raises:
        CalibrationError: it is no such file, is damaged, or a set that this bundle cannot be calibrated with.
        FitError: the set is larger than the memory that is free.
    """
    try:
        if not path.is_file():
            raise CalibrationError(f"there is no calibration set {path}; {NEW}")
        check_memory(SET_COPIES * path.stat().st_size, f"reading {path}", NEW)
        with path.open("rb") as file:
            _check_zip_end(file, path)
            with zipfile.ZipFile(file) as archive:
                return _read_set(archive, path, manifest, source_sha256)
    except OSError as error:
        raise CalibrationError(f"cannot read the calibration set {path}: {error.strerror or error}; {NEW}") from error
    except (zipfile.BadZipFile, struct.error, EOFError, ValueError, RuntimeError) as error:
        raise CalibrationError(f"{path} is a damaged calibration set: {error}; {NEW}") from error


def _check_zip_end(file: IO[bytes], path: Path) -> None:
    """Refuse what `save_set` did not end: zipfile would read a directory of any size."""
    if file.read(4) != b"PK\x03\x04":
        raise CalibrationError(f"{path} is no calibration set, which is an npz file; {NEW}")
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - ZIP_END.size))
    end = file.read(ZIP_END.size)
    if len(end) < ZIP_END.size or end[:4] != b"PK\x05\x06":
        raise CalibrationError(f"{path} is a calibration set that is cut off, {size} bytes long; {NEW}")
    members = ZIP_END.unpack(end)[4]
    if members != len(MEMBERS):
        raise CalibrationError(f"{path} has {members} members, a calibration set has {', '.join(MEMBERS)}; {NEW}")


def _read_set(archive: zipfile.ZipFile, path: Path, manifest: Manifest, source_sha256: str) -> CalibrationSet:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if set(members) != set(MEMBERS):
        raise CalibrationError(f"{path} holds {', '.join(members)}, a set holds {', '.join(MEMBERS)}; {NEW}")
    for name, info in members.items():
        if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CalibrationError(f"{path}: {name} is compressed or encrypted, in a set nothing is; {NEW}")

    def read(name: str, dtype: str, shape: tuple[int, ...] | None) -> npt.NDArray[Any]:
        kind = np.dtype(dtype)
        due = RECIPE_LIMIT_BYTES if shape is None else kind.itemsize * math.prod(shape) + NPY_HEADER_BYTES
        if members[name].file_size > due:
            raise CalibrationError(f"{path}: {name} has {members[name].file_size} bytes, at most {due} are due; {NEW}")
        return _array(archive.read(members[name]), kind, shape, f"{path}: {name}")

    recipe = _recipe(read("recipe", "u1", None).tobytes(), path)
    for fault in _recipe_faults(recipe, manifest, source_sha256):
        raise CalibrationError(f"calibration set {path} {fault}; {NEW}")
    count = (recipe.states,)
    x = read("x", "<f4", (*count, *recipe.sample_shape))
    found = CalibrationSet(recipe, x, read("t", "<f4", count), read("y", "<i8", count), read("latents", "<i8", count))
    for fault in _state_faults(found):
        raise CalibrationError(f"calibration set {path} {fault}; {NEW}")
    if read("sha256", "u1", (64,)).tobytes() != found.digest.encode():
        raise CalibrationError(f"calibration set {path} does not match the digest in it: it was changed; {NEW}")
    return found


def _recipe(data: bytes, path: Path) -> SetRecipe:
    try:
        return msgspec.json.decode(data, type=SetRecipe)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ConfigError) as error:
        raise CalibrationError(f"the recipe in {path} is none of a calibration set: {error}; {NEW}") from error


def _array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...] | None, source: str) -> npt.NDArray[Any]:
    """The array of a .npy member, whose bytes are used as they stand: nothing is unpickled.

    `shape` None takes one dimension of any length.
    """
    stream = io.BytesIO(data)
    wanted = f"{dtype} {'of one dimension' if shape is None else list(shape)} in C order"
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("of another npy version")
        found, column_order, stored = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # a header is parsed as Python; its errors share no narrower class
        raise CalibrationError(f"{source} is no array ({error}), but should be {wanted}; {NEW}") from error
    values = data[stream.tell() :]
    due = (len(values) // dtype.itemsize,) if shape is None else shape
    if (found, stored, column_order) != (due, dtype, False):
        order = "Fortran" if column_order else "C"
        raise CalibrationError(f"{source} is {stored} {list(found)} in {order} order, not {wanted}; {NEW}")
    if len(values) != math.prod(due) * dtype.itemsize:
        raise CalibrationError(f"{source} has {len(values)} bytes of values, not {wanted}; {NEW}")
    return np.frombuffer(values, dtype).reshape(due)


def _recipe_faults(recipe: SetRecipe, manifest: Manifest, source_sha256: str) -> Iterator[str]:
    """Why a bundle cannot be calibrated with such a set; each ends a sentence that begins with the set."""
    own, other = manifest.model.fields(), recipe.model.fields()
    differing = [f"{name} {other[name]}, not {own[name]}" for name in own if own[name] != other[name]]
    if differing:
        yield f"is of another model than bundle {manifest.name}: {'; '.join(differing)}"
    if recipe.source_sha256 != source_sha256:
        yield (
            f"was taken from other weights than those of bundle {manifest.name}: "
            f"digest {recipe.source_sha256[:12]}, not {source_sha256[:12]}"
        )
    if not recipe.budgets:
        yield "is empty: its recipe names no budget"
    if list(recipe.budgets) != sorted(set(recipe.budgets)) or not set(recipe.budgets) <= set(manifest.budgets):
        yield f"is of latents {list(recipe.budgets)}: the bundle's budgets are {list(manifest.budgets)}, each once"
    ends = {manifest.budgets[0], manifest.budgets[-1]}
    if not ends <= set(recipe.budgets):
        yield (
            f"is of latents {list(recipe.budgets)} alone, and ranges move with the budget: "
            f"it must hold states at {' and at '.join(map(str, sorted(ends)))} latents a group at least"
        )


def _state_faults(found: CalibrationSet) -> Iterator[str]:
    """What is wrong with the arrays of a set whose recipe is right."""
    unusable = np.argwhere(~np.isfinite(found.x))
    if len(unusable):
        yield f"holds values that are not finite, first in state {unusable[0, 0]} of {len(found.x)}"
    null = found.y == found.recipe.model.null_label
    if null.all() or not null.any():
        yield f"holds no state with {'a label' if null.all() else 'the null label'}, and guidance needs both kinds"
    t, y, latents = columns(found.recipe)
    for name, values, due in (("t", found.t, t), ("y", found.y, y), ("latents", found.latents, latents)):
        other = values != due
        if other.any():
            row = int(other.argmax())
            yield f"holds {name} = {values[row]} in state {row}, where its recipe says {due[row]}"
