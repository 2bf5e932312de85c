"""A saved .mlpackage: checked when it is opened; its weights are read when they are wanted, and shared."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elit_edge.errors import PackageError
from elit_edge.export.mil.library import coremltools
from elit_edge.export.mil.package_folder import DAMAGED, check_folder, model_path, weight_path
from elit_edge.export.mil.program import Constant, Program, ValueSpec, read_program

BLOB_HEADER_BYTES = 64
"""Before each blob; the offset of a blob is that of its header."""
BLOB_KINDS = {"float16": "fp16", "float32": "float"}
"""As coremltools' reader of blobs names them; the others as here."""
MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError)
"""What reading a damaged protobuf or a damaged blob may raise, in this module or in coremltools."""


class MilPackage:
    """A package of MIL functions. Weights are shared by all that is evaluated of it."""

    def __init__(self, path: Path, model: Any) -> None:
        self.path = path
        self.specification_version: int = model.specificationVersion
        self.tensors: weakref.WeakValueDictionary[tuple[object, ...], Tensor] = weakref.WeakValueDictionary()
        """What somebody holds of the weights now, decompressed ones too."""
        self._functions: Mapping[str, Any] = model.mlProgram.functions
        self._description = model.description
        self._programs: dict[str, Program] = {}
        self._blob_readers: dict[str, Any] = {}

    @classmethod
    def open(cls, path: Path) -> MilPackage:
        """Check the folder, and read all of its protobuf.

        Raises:
            PackageError: there is no package, or it is damaged, or it holds no ML program.
            RuntimeUnavailable: coremltools is missing.
        """
        check_folder(path)
        model = coremltools().proto.Model_pb2.Model()
        try:
            model.ParseFromString(model_path(path).read_bytes())
        except Exception as error:  # protobuf's DecodeError, which coremltools does not re-export
            raise PackageError(f"{model_path(path)} is no protobuf of a model ({error}); {DAMAGED}") from error
        kind = model.WhichOneof("Type")
        if kind != "mlProgram":
            raise PackageError(f"{path} holds a model of kind {kind}; elit-edge reads ML programs")
        package = cls(path, model)
        if not package.functions:
            raise PackageError(f"{path} holds a program without functions; {DAMAGED}")
        for name in package.functions:
            package._check_weights(package.program(name))
        return package

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
        """What the package says of itself: short_description, version, author, license, and its writer's own fields."""
        fields = self._description.metadata
        common = {
            "short_description": fields.shortDescription,
            "version": fields.versionString,
            "author": fields.author,
            "license": fields.license,
        }
        return {name: text for name, text in common.items() if text} | dict(fields.userDefined)

    def inputs(self, function: str) -> tuple[ValueSpec, ...]:
        """Of the function, in order; the description that an app reads says the same."""
        return self.program(function).inputs

    def outputs(self, function: str) -> tuple[ValueSpec, ...]:
        """Of the function, in order; the description that an app reads says the same."""
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
                program = read_program(function, self._functions[function])
                self._check_description(program)
            except PackageError as error:
                raise PackageError(f"{self.path}: {error}") from error
            except MALFORMED as error:
                raise PackageError(f"{self.path}: function {function} cannot be read ({error}); {DAMAGED}") from error
            self._programs[function] = program
        return self._programs[function]

    def blob_offsets(self, function: str) -> dict[str, int]:
        """Where each weight of the function stands in the weight file, by the name of its constant."""
        constants = self.program(function).constants
        return {name: constant.offset for name, constant in constants.items() if constant.file is not None}

    def array(self, constant: Constant) -> np.ndarray[Any, Any] | str:
        """A constant's value, read from the file each time.

        Raises:
            PackageError: the file has not what the program says.
        """
        try:
            return constant.immediate_value() if constant.file is None else self._blob(constant, constant.file)
        except MALFORMED as error:
            place = "" if constant.file is None else f" at {constant.offset} in {constant.file}"
            raise PackageError(
                f"{self.path}: constant {constant.spec.name!r}{place} cannot be read ({error}); {DAMAGED}"
            ) from error

    def tensor(self, constant: Constant) -> Tensor:
        """A constant to compute with, floats as float32; the same tensor as long as somebody holds it.

        Raises:
            PackageError: the file has not what the program says.
        """
        tensor = self.tensors.get(constant.key)
        if tensor is None:
            array = self.array(constant)
            if isinstance(array, str):
                raise PackageError(f"{self.path}: constant {constant.spec.name!r} is text where a tensor is wanted")
            tensor = torch.from_numpy(np.array(array)).to(constant.spec.element.computed)
            self.tensors[constant.key] = tensor
        return tensor

    def _blob(self, constant: Constant, file: str) -> np.ndarray[Any, Any]:
        if file not in self._blob_readers:
            # milproto.load, the public way, would read all weights of all functions
            storage = coremltools().libmilstoragepython
            self._blob_readers[file] = storage._BlobStorageReader(str(weight_path(self.path, file)))  # noqa: SLF001
        element = constant.spec.element
        read = getattr(self._blob_readers[file], f"read_{BLOB_KINDS.get(element.name, element.name)}_data")
        stored = np.asarray(read(constant.offset))
        if element.name == "float16":
            stored = stored.view(np.float16)
        return stored.astype(element.stored, copy=False).reshape(constant.spec.fixed_shape)

    def _check_weights(self, program: Program) -> None:
        """Every weight file is there, and long enough."""
        sizes: dict[str, int] = {}
        for name, constant in program.constants.items():
            if constant.file is None:
                continue
            if constant.file not in sizes:
                sizes[constant.file] = weight_path(self.path, constant.file).stat().st_size
            spec = constant.spec
            end = constant.offset + BLOB_HEADER_BYTES + -(-math.prod(spec.fixed_shape) * spec.element.bits // 8)
            if end > sizes[constant.file]:
                raise PackageError(
                    f"{self.path}: weight {name!r} ends at byte {end} of {constant.file}, "
                    f"which has {sizes[constant.file]}; {DAMAGED}"
                )

    def _check_description(self, program: Program) -> None:
        """An app allocates by the description, Core ML computes by the program: they have to agree."""
        own = [entry for entry in self._description.functions if entry.name == program.name]
        described = own[0] if own else self._description
        for features, specs in ((described.input, program.inputs), (described.output, program.outputs)):
            told = {feature.name: self._told(feature) for feature in features}
            meant = {spec.name: (spec.element.name, spec.shape) for spec in specs}
            if set(told) != set(meant):
                raise PackageError(
                    f"function {program.name} has {_words(meant)}, its description {_words(told)}; {DAMAGED}"
                )
            for name, (element, shape) in meant.items():
                if None not in shape and told[name] not in (None, (element, shape)):
                    raise PackageError(
                        f"{name!r} of function {program.name} is {(element, shape)}, "
                        f"its description says {told[name]}; {DAMAGED}"
                    )

    @staticmethod
    def _told(feature: Any) -> tuple[str, tuple[int, ...]] | None:
        """Type and shape of a described array; None of an image."""
        if feature.type.WhichOneof("Type") != "multiArrayType":
            return None
        array = feature.type.multiArrayType
        name = coremltools().proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType)
        return name.lower(), tuple(array.shape)


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
