"""A saved .mlpackage: checked before it is read, its functions read one by one, its weights when they are wanted."""

from __future__ import annotations

import json
import stat
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elit_edge.errors import PackageError
from elit_edge.export.mil.library import coremltools
from elit_edge.export.mil.program import Constant, Program, ValueSpec, read_program

MANIFEST, MODEL, WEIGHTS = "Manifest.json", "model.mlmodel", "weights"
ITEM_FOLDER = "com.apple.CoreML"
MODEL_LIMIT_BYTES = (2 << 30) - 1
"""Protobuf's own limit."""
MANIFEST_LIMIT_BYTES = 1 << 20
BLOB_PREFIX = "@model_path/weights/"
DAMAGED = "the package is damaged; write it again"


class MilPackage:
    """A package of MIL functions. Weights are shared by all that is evaluated of it."""

    def __init__(self, path: Path, model: Any) -> None:
        self.path = path
        self._functions: Mapping[str, Any] = model.mlProgram.functions
        self._description = model.description
        self._programs: dict[str, Program] = {}
        self._readers: dict[str, Any] = {}
        self._tensors: weakref.WeakValueDictionary[tuple[object, ...], Tensor] = weakref.WeakValueDictionary()
        self.specification_version: int = model.specificationVersion

    @classmethod
    def open(cls, path: Path) -> MilPackage:
        """Check the folder and read its protobuf.

        Raises:
            PackageError: there is no package, or it is damaged, or it holds no MIL program.
            RuntimeUnavailable: coremltools is missing.
        """
        _check_folder(path)
        proto = coremltools().proto
        model = proto.Model_pb2.Model()
        try:
            model.ParseFromString((path / "Data" / ITEM_FOLDER / MODEL).read_bytes())
        except Exception as error:  # google.protobuf's DecodeError, which this module does not import
            raise PackageError(f"{path}: {MODEL} is no protobuf of a model ({error}); {DAMAGED}") from error
        kind = model.WhichOneof("Type")
        if kind != "mlProgram":
            raise PackageError(f"{path} holds a model of kind {kind}; elit-edge reads ML programs (mlProgram)")
        if not model.mlProgram.functions:
            raise PackageError(f"{path} holds a program without functions; {DAMAGED}")
        return cls(path, model)

    @property
    def functions(self) -> tuple[str, ...]:
        """Their names, sorted."""
        return tuple(sorted(self._functions))

    @property
    def default_function(self) -> str:
        """The one that Core ML loads when none is named."""
        return self._description.defaultFunctionName or "main"

    @property
    def metadata(self) -> dict[str, str]:
        """What the package says of itself: short_description, version, author, license, and the writer's own fields."""
        fields = self._description.metadata
        own = {
            "short_description": fields.shortDescription,
            "version": fields.versionString,
            "author": fields.author,
            "license": fields.license,
        }
        return {name: text for name, text in own.items() if text} | dict(fields.userDefined)

    def inputs(self, function: str) -> tuple[ValueSpec, ...]:
        """As the function declares them, in order."""
        return self.program(function).inputs

    def outputs(self, function: str) -> tuple[ValueSpec, ...]:
        """As the function declares them, in order."""
        return self.program(function).outputs

    def program(self, function: str) -> Program:
        """The function's operators.

        Raises:
            PackageError: there is no such function, or it is damaged.
        """
        if function not in self._functions:
            raise PackageError(f"{self.path} has no function {function!r}; it has {', '.join(self.functions)}")
        if function not in self._programs:
            try:
                self._programs[function] = read_program(function, self._functions[function])
            except PackageError as error:
                raise PackageError(f"{self.path}: {error}") from error
            except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
                raise PackageError(f"{self.path}: function {function} cannot be read ({error}); {DAMAGED}") from error
        return self._programs[function]

    def blob_offsets(self, function: str) -> dict[str, int]:
        """Where each weight stands in the weight file, by the name of its constant."""
        constants = self.program(function).constants
        return {name: constant.offset for name, constant in constants.items() if constant.file is not None}

    def array(self, constant: Constant) -> np.ndarray[Any, Any] | str:
        """A constant's value, read from the file each time.

        Raises:
            PackageError: the weight file is missing, or has not what the program says.
        """
        try:
            if constant.file is None:
                return constant.unpacked()
            return self._blob(constant)
        except (ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            place = "" if constant.file is None else f" at offset {constant.offset} of {constant.file}"
            raise PackageError(
                f"{self.path}: constant {constant.spec.name!r}{place} cannot be read ({error}); {DAMAGED}"
            ) from error

    def tensor(self, constant: Constant) -> Tensor:
        """A constant as a tensor to compute with, floats as float32; the same one as long as somebody holds it."""
        tensor = self._tensors.get(constant.key)
        if tensor is None:
            array = self.array(constant)
            if isinstance(array, str):
                raise PackageError(f"{self.path}: constant {constant.spec.name!r} is text where a tensor is wanted")
            tensor = torch.from_numpy(np.array(array)).to(constant.spec.element.computed)
            self._tensors[constant.key] = tensor
        return tensor

    @property
    def tensors(self) -> weakref.WeakValueDictionary[tuple[object, ...], Tensor]:
        """What is held of weights now, decompressed ones too."""
        return self._tensors

    def _blob(self, constant: Constant) -> np.ndarray[Any, Any]:
        assert constant.file is not None
        name = constant.file.removeprefix(BLOB_PREFIX)
        path = self.path / "Data" / ITEM_FOLDER / WEIGHTS / name
        if "/" in name or not path.is_file():
            raise PackageError(
                f"{self.path}: its program takes weights from {constant.file}, which is missing; {DAMAGED}"
            )
        if name not in self._readers:
            # the public way (milproto.load) reads the weights of all functions at once
            self._readers[name] = coremltools().libmilstoragepython._BlobStorageReader(str(path))  # noqa: SLF001
        element = constant.spec.element
        kind = "float" if element.name == "float32" else "fp16" if element.name == "float16" else element.name
        stored = np.asarray(getattr(self._readers[name], f"read_{kind}_data")(constant.offset))
        assert element.stored is not None
        if element.name == "float16":
            stored = stored.view(element.stored)
        return stored.astype(element.stored, copy=False).reshape(constant.spec.shape)


def _check_folder(path: Path) -> None:
    """A folder of plain files, laid out as packages are."""
    if not path.is_dir():
        raise PackageError(f"no package at {path}: expected a folder NAME.mlpackage")
    for entry in path.rglob("*"):
        mode = entry.lstat().st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise PackageError(f"{entry} is a link or a special file, and no package holds one; {DAMAGED}")
    manifest, model = path / MANIFEST, path / "Data" / ITEM_FOLDER / MODEL
    for file, limit in ((manifest, MANIFEST_LIMIT_BYTES), (model, MODEL_LIMIT_BYTES)):
        if not file.is_file():
            raise PackageError(f"{path} is no package: it has no {file.relative_to(path)}; {DAMAGED}")
        if not 0 < file.stat().st_size <= limit:
            raise PackageError(f"{file} has {file.stat().st_size} bytes, expected 1 to {limit}; {DAMAGED}")
    try:
        listed = json.loads(manifest.read_bytes())
        root = listed["itemInfoEntries"][listed["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise PackageError(f"{manifest} does not name the model of its package ({error!r}); {DAMAGED}") from error
    if root != f"{ITEM_FOLDER}/{MODEL}":
        raise PackageError(f"{manifest} names {root!r} as its model, expected {ITEM_FOLDER}/{MODEL}; {DAMAGED}")
