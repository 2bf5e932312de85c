"""How an operator of MIL is written here: a function of tensors and settings, under its MIL name.

Parameters have the names that MIL gives them (a trailing underscore is dropped), and their annotations say how an
argument comes: a Tensor (floats as float32), several of them, or a setting as Python's own value. "Source" names the
module of coremltools' operator reference, coremltools.converters.mil.mil.ops.defs, whose text defines the operator.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Ints = tuple[int, ...]
Bools = tuple[bool, ...]
Tensors = tuple[Tensor, ...]

SETTINGS: dict[Any, Callable[[Any], Any]] = {
    int: int,
    float: float,
    bool: bool,
    str: str,
    Ints: lambda values: tuple(int(value) for value in values),
    Bools: lambda values: tuple(bool(value) for value in values),
}
"""From what `tolist` gives to the value that a function takes."""


@dataclass(frozen=True)
class Operator:
    """One row of the table."""

    compute: Callable[..., Any]
    """Gives a tensor, or several."""
    kinds: Mapping[str, Any]
    """By parameter: Tensor, Tensors, or a key of `SETTINGS`."""
    required: frozenset[str]


OPERATORS: dict[str, Operator] = {}
"""By the operator's MIL name."""

Compute = typing.TypeVar("Compute", bound=Callable[..., Any])


def operator(mil_name: str) -> Callable[[Compute], Compute]:
    """Put a function into the table."""

    def enter(compute: Compute) -> Compute:
        hints = typing.get_type_hints(compute)
        parameters = inspect.signature(compute).parameters
        OPERATORS[mil_name] = Operator(
            compute,
            {name: _kind(hints[name]) for name in parameters},
            frozenset(name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty),
        )
        return compute

    return enter


def _kind(hint: Any) -> Any:
    """The annotation without its "or None"."""
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    return options[0] if type(None) in typing.get_args(hint) else hint
