"""A function of a package, computed with torch: each operator as MIL defines it, each output held to what is declared.

Three modes. "exact" computes in float32 throughout, on the weights as they are stored, whatever type is declared: it
checks graph and weights. "stored" rounds the output of every operator to its declared float16: it adds what storing
activations costs. "unrounded" is exact, and lets through as they are the numbers that a graph rounds to eight bits. All
check the file; how a device accumulates is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from elit_edge.errors import PackageError, RequestError
from elit_edge.export.mil.binding import Bound, Values, bind
from elit_edge.export.mil.program import Operation, ValueSpec
from elit_edge.export.mil.reading import MilPackage

Mode = Literal["exact", "stored", "unrounded"]
Array = np.ndarray[Any, Any]
Observer = Callable[[str, str, str, Tensor], None]
"""Told operator name, operator type, output name and the output, for each floating output of each operator."""

CONSTANT_EXPRESSION = "constexpr_"
TO_EIGHT_BITS, FROM_EIGHT_BITS = "quantize", "dequantize"
FLOATS = (np.dtype(np.float16), np.dtype(np.float32))


@dataclass(frozen=True)
class _Step:
    operation: Operation
    compute: Callable[[Values], Any]
    outputs: tuple[tuple[ValueSpec, int], ...]
    """Each with its slot."""
    freed: tuple[int, ...]
    """Slots that no later step reads."""


class MilFunction:
    """A function made ready: operators bound to their settings and weights once, then run as a flat list."""

    def __init__(self, package: MilPackage, name: str, mode: Mode = "exact") -> None:
        """Read the function and its weights.

        Raises:
            PackageError: there is no such function, it is damaged, or it holds an operator that is not in the table.
        """
        self.package, self.name, self.mode = package, name, mode
        program = package.program(name)
        self.inputs, self.outputs = program.inputs, program.outputs
        self._constants = program.constants
        expressions = [o for o in program.operations if o.type.startswith(CONSTANT_EXPRESSION)]
        self._expressions = {output.name: operation for operation in expressions for output in operation.outputs}
        self._slots: dict[str, int] = {}
        self._initial: Values = []
        for spec in self.inputs:
            self._new_slot(spec.name, None)
        with torch.inference_mode():
            self._steps = self._prepare([o for o in program.operations if not o.type.startswith(CONSTANT_EXPRESSION)])

    def __call__(self, inputs: Mapping[str, Array], observe: Observer | None = None) -> dict[str, Array]:
        """Compute the function.

        Args:
            inputs: by name, of the declared shape and type; for a float16 input float32 is taken too.
            observe: told of every floating output of an operator.

        Returns:
            By name. In exact mode floats are float32, in stored mode as declared.

        Raises:
            RequestError: an input is missing, unknown, or not as declared.
            PackageError: an operator gave something else than is declared, or could not be computed.
        """
        with torch.inference_mode():
            values = self._initial.copy()
            for slot, tensor in enumerate(self._checked(inputs)):
                values[slot] = tensor
            for step in self._steps:
                self._run(step, values, observe)
            return {spec.name: self._given(spec, values[self._slots[spec.name]]) for spec in self.outputs}

    def weight(self, name: str) -> Array:
        """A constant of the function, or what it unpacks a compressed one to, floats as float32.

        Raises:
            PackageError: there is none of that name, or it cannot be read.
        """
        if name not in self._constants and name not in self._expressions:
            raise PackageError(f"{self.package.path}: function {self.name} has no weight {name!r}")
        with torch.inference_mode():
            return self._known(name).numpy()

    def _run(self, step: _Step, values: Values, observe: Observer | None) -> None:
        operation = step.operation
        results = self._computed(operation, step.compute, values)
        for (spec, slot), result in zip(step.outputs, results, strict=True):
            values[slot] = tensor = self._accepted(operation, spec, result)
            if observe is not None and spec.element.is_float:
                observe(operation.name, operation.type, spec.name, tensor)
        for slot in step.freed:
            values[slot] = None

    def _computed(self, operation: Operation, compute: Callable[[Values], Any], values: Values) -> Sequence[Tensor]:
        try:
            results = compute(values)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            raise PackageError(f"{self._place(operation)} could not be computed: {error}") from error
        if isinstance(results, Tensor):
            results = (results,)
        if len(results) != len(operation.outputs):
            raise PackageError(
                f"{self._place(operation)} gave {len(results)} outputs, declared are {len(operation.outputs)}"
            )
        return results

    def _accepted(self, operation: Operation, spec: ValueSpec, result: Tensor) -> Tensor:
        """The output, if it is as declared; in stored mode as a device would store it."""
        if self._lets_through(operation, TO_EIGHT_BITS) and _fits(result.shape, spec.shape):
            return result
        if result.dtype is not spec.element.computed or not _fits(result.shape, spec.shape):
            raise PackageError(
                f"{self._place(operation)} gave {spec.name!r} as {result.dtype} {list(result.shape)}, "
                f"declared is {_words(spec)}"
            )
        return result.half().float() if self._rounds(spec) else result

    def _lets_through(self, operation: Operation, *types: str) -> bool:
        return self.mode == "unrounded" and operation.type in types

    def _checked(self, inputs: Mapping[str, Array]) -> Iterator[Tensor]:
        wanted = {spec.name for spec in self.inputs}
        if set(inputs) != wanted:
            raise RequestError(
                f"function {self.name} takes {', '.join(sorted(wanted))}; given: {', '.join(sorted(inputs)) or 'none'}"
            )
        for spec in self.inputs:
            array = np.asarray(inputs[spec.name])
            of_type = array.dtype in FLOATS if spec.element.is_float else array.dtype == spec.element.stored
            if not of_type or not _fits(array.shape, spec.shape):
                raise RequestError(
                    f"input {spec.name!r} of function {self.name} is {array.dtype} {list(array.shape)}, "
                    f"declared is {_words(spec)}"
                )
            tensor = torch.from_numpy(np.array(array)).to(spec.element.computed)
            yield tensor.half().float() if self._rounds(spec) else tensor

    def _given(self, spec: ValueSpec, tensor: Tensor) -> Array:
        assert spec.element.stored is not None
        as_computed = self.mode != "stored" and spec.element.is_float
        return tensor.numpy().astype(np.float32 if as_computed else spec.element.stored)

    def _rounds(self, spec: ValueSpec) -> bool:
        return self.mode == "stored" and spec.element.name == "float16"

    def _place(self, operation: Operation) -> str:
        return f"{self.package.path}, function {self.name}: operator {operation.name!r} ({operation.type})"

    def _prepare(self, operations: Sequence[Operation]) -> tuple[_Step, ...]:
        bound = []
        for operation in operations:
            step = self._bind(operation, self._slot_of)
            outputs = tuple((spec, self._new_slot(spec.name, None)) for spec in operation.outputs)
            bound.append((operation, step, outputs))
        needed = {self._slot_of(spec.name) for spec in self.outputs}
        needed.update(slot for slot, value in enumerate(self._initial) if value is not None)
        steps = []
        for operation, step, outputs in reversed(bound):
            freed = (step.reads | {slot for _, slot in outputs}) - needed
            needed |= freed
            steps.append(_Step(operation, step.compute, outputs, tuple(freed)))
        return tuple(reversed(steps))

    def _bind(self, operation: Operation, slot_of: Callable[[str], int]) -> Bound:
        if self._lets_through(operation, TO_EIGHT_BITS, FROM_EIGHT_BITS):
            slot = slot_of(operation.arguments["input"][0])
            return Bound(lambda values: values[slot], frozenset({slot}))
        try:
            return bind(operation, slot_of, self._setting)
        except PackageError as error:
            raise PackageError(f"{self.package.path}, function {self.name}: {error}") from error
        except (TypeError, ValueError) as error:
            raise PackageError(f"{self._place(operation)} has a setting of another type: {error}") from error

    def _setting(self, name: str) -> Any:
        if name not in self._constants:
            return None
        value = self.package.array(self._constants[name])
        return value if isinstance(value, str) else value.tolist()

    def _new_slot(self, name: str, value: Tensor | None) -> int:
        self._slots[name] = len(self._initial)
        self._initial.append(value)
        return self._slots[name]

    def _slot_of(self, name: str) -> int:
        """Where a value stands; a constant takes its place when it is first asked for."""
        return self._slots[name] if name in self._slots else self._new_slot(name, self._known(name))

    def _known(self, name: str) -> Tensor:
        """A value that follows from constants alone, decompressed once for all functions."""
        if name in self._constants:
            return self.package.tensor(self._constants[name])
        operation = self._expressions[name]
        key = self._key(name)
        tensor = self.package.tensors.get(key)
        if tensor is None:
            values: Values = []

            def place(argument: str) -> int:
                values.append(self._known(argument))
                return len(values) - 1

            compute = self._bind(operation, place).compute
            (result,) = self._computed(operation, compute, values)
            tensor = self.package.tensors[key] = self._accepted(operation, operation.outputs[0], result)
        return tensor

    def _key(self, name: str) -> tuple[object, ...]:
        """The same for the same bytes, taken through the same operators and rounded alike, in whichever function."""
        if name in self._constants:
            return self._constants[name].key
        if name not in self._expressions:
            raise PackageError(
                f"{self.package.path}, function {self.name}: {name!r} stands where a constant has to, and is computed"
            )
        operation = self._expressions[name]
        arguments = sorted(operation.arguments.items())
        return (
            operation.type,
            self.mode == "stored",
            *((parameter, *map(self._key, names)) for parameter, names in arguments),
        )


def _fits(shape: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    if shape == declared:
        return True
    free = None in declared and len(shape) == len(declared)
    return free and all(wanted in (None, length) for length, wanted in zip(shape, declared, strict=True))


def _words(spec: ValueSpec) -> str:
    return f"{spec.element.name} [{', '.join('any' if length is None else str(length) for length in spec.shape)}]"
