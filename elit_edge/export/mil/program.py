"""One function of a MIL program as the file states it: its operators in order, their arguments, its constants.

The protobuf is read as it is. coremltools' own way back from a file (milproto.load) builds every operator anew, and
with it computes what depends on constants alone and reads each weight once a function; here nothing is computed, and
a weight is read when it is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elit_edge.errors import PackageError
from elit_edge.export.mil.element_types import ELEMENT_TYPES, ElementType
from elit_edge.export.mil.library import coremltools
from elit_edge.export.mil.package_folder import DAMAGED


@dataclass(frozen=True)
class ValueSpec:
    """A value as declared: its name, element type and shape; None is a dimension left free."""

    name: str
    element: ElementType
    shape: tuple[int | None, ...]

    @property
    def fixed_shape(self) -> tuple[int, ...]:
        """The shape of a value that cannot have free dimensions.

        Raises:
            ValueError: it has one.
        """
        if None in self.shape:
            raise ValueError(f"{self.name!r} has a free dimension")
        return tuple(length for length in self.shape if length is not None)


@dataclass(frozen=True)
class Constant:
    """A value that stands in the file: among the operators, or in a weight file at an offset."""

    spec: ValueSpec
    file: str | None
    """None: it stands in `immediate`."""
    offset: int
    immediate: Any = field(repr=False)

    @property
    def key(self) -> tuple[object, ...]:
        """The same for the same bytes read as the same type."""
        place = (self.file, self.offset) if self.file is not None else (self.immediate.SerializeToString(),)
        return (*place, self.spec.element.name, self.spec.shape)

    def immediate_value(self) -> np.ndarray[Any, Any] | str:
        """The value of one that stands among the operators."""
        element, shape = self.spec.element, self.spec.fixed_shape
        values = getattr(self.immediate, self.immediate.WhichOneof("value")).values
        if element.name == "string":
            return str(values[0])
        if isinstance(values, bytes):
            return unpack_bits(values, element, math.prod(shape)).reshape(shape)
        return np.asarray(values, element.stored).reshape(shape)


@dataclass(frozen=True)
class Operation:
    """One operator: its arguments by parameter, each the names of values; its outputs as declared."""

    name: str
    type: str
    arguments: Mapping[str, tuple[str, ...]]
    outputs: tuple[ValueSpec, ...]


@dataclass(frozen=True)
class Program:
    """A function: values are named once, and named before they are used."""

    name: str
    opset: str
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    constants: Mapping[str, Constant]
    operations: tuple[Operation, ...]


def read_program(name: str, function: Any) -> Program:
    """Read a MILSpec.Function.

    Raises:
        PackageError: it contradicts itself, or holds what is no tensor; the message lacks the package's name.
    """
    return _Reader(name, function).program()


class _Reader:
    def __init__(self, name: str, function: Any) -> None:
        self._name, self._function = name, function
        self._constants: dict[str, Constant] = {}
        self._values: dict[str, ValueSpec] = {}
        self._operations: list[Operation] = []

    def program(self) -> Program:
        function = self._function
        if function.opset not in function.block_specializations:
            raise PackageError(f"function {self._name} has no body for its opset {function.opset!r}; {DAMAGED}")
        block = function.block_specializations[function.opset]
        inputs = tuple(_value_spec(value.name, value.type) for value in function.inputs)
        for spec in inputs:
            self._declare(spec)
        for number, operation in enumerate(block.operations):
            self._take(operation, f"{operation.type}_{number}")
        missing = [output for output in block.outputs if output not in self._values]
        if missing:
            raise PackageError(f"function {self._name} gives {missing[0]!r}, which nothing in it computes; {DAMAGED}")
        outputs = tuple(self._values[output] for output in block.outputs)
        return Program(self._name, function.opset, inputs, outputs, self._constants, tuple(self._operations))

    def _take(self, operation: Any, fallback_name: str) -> None:
        attributes = {key: _constant(f"{operation.type}.{key}", value) for key, value in operation.attributes.items()}
        own_name = attributes.pop("name", None)
        name = fallback_name if own_name is None else str(own_name.immediate_value())
        outputs = tuple(_value_spec(value.name, value.type) for value in operation.outputs)
        if operation.type == "const":
            (output,) = outputs
            constant = attributes["val"]
            if (constant.spec.element, constant.spec.shape) != (output.element, output.shape):
                raise PackageError(f"constant {output.name!r} is declared as another type than it has; {DAMAGED}")
            self._constants[output.name] = Constant(output, constant.file, constant.offset, constant.immediate)
        else:
            arguments = {
                key: self._argument(f"{name}.{key}", argument.arguments) for key, argument in operation.inputs.items()
            }
            for key, constant in attributes.items():
                self._constants[f"{name}.{key}"] = constant
                arguments[key] = (f"{name}.{key}",)
            self._operations.append(Operation(name, operation.type, arguments, outputs))
        for output in outputs:
            self._declare(output)

    def _argument(self, place: str, bindings: Any) -> tuple[str, ...]:
        names = []
        for number, binding in enumerate(bindings):
            if binding.WhichOneof("binding") == "value":
                name = f"{place}.{number}"
                self._constants[name] = _constant(name, binding.value)
                self._values[name] = self._constants[name].spec
            else:
                name = binding.name
                if name not in self._values:
                    raise PackageError(
                        f"function {self._name}: {place} takes {name!r}, which is not computed before; {DAMAGED}"
                    )
            names.append(name)
        return tuple(names)

    def _declare(self, spec: ValueSpec) -> None:
        if spec.name in self._values:
            raise PackageError(f"function {self._name} names two values {spec.name!r}; {DAMAGED}")
        self._values[spec.name] = spec


def _constant(name: str, value: Any) -> Constant:
    spec = _value_spec(name, value.type)
    if value.WhichOneof("value") == "blobFileValue":
        blob = value.blobFileValue
        return Constant(spec, blob.fileName, blob.offset, None)
    return Constant(spec, None, 0, value.immediateValue.tensor)


def _value_spec(name: str, value_type: Any) -> ValueSpec:
    kind = value_type.WhichOneof("type")
    if kind != "tensorType":
        raise PackageError(f"value {name!r} is of {kind or 'no type'}; elit-edge evaluates tensors alone")
    tensor = value_type.tensorType
    data_type = coremltools().proto.MIL_pb2.DataType.Name(tensor.dataType).lower()
    if data_type not in ELEMENT_TYPES:
        raise PackageError(f"value {name!r} is of type {data_type}; elit-edge knows {', '.join(ELEMENT_TYPES)}")
    if tensor.rank != len(tensor.dimensions):
        raise PackageError(
            f"value {name!r} is of rank {tensor.rank} and has {len(tensor.dimensions)} dimensions; {DAMAGED}"
        )
    shape = tuple(d.constant.size if d.WhichOneof("dimension") == "constant" else None for d in tensor.dimensions)
    return ValueSpec(name, ELEMENT_TYPES[data_type], shape)


def unpack_bits(packed: bytes, element: ElementType, count: int) -> np.ndarray[Any, Any]:
    """`count` numbers of `element.bits` each, the least significant bit first, as the type that holds them."""
    if element.bits % 8 == 0:
        return np.frombuffer(packed, element.stored)[:count]
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little", count=count * element.bits)
    numbers = bits.reshape(count, element.bits) @ (1 << np.arange(element.bits))
    if element.name.startswith("int"):
        numbers -= (numbers >> (element.bits - 1)) << element.bits
    return numbers.astype(element.stored)
