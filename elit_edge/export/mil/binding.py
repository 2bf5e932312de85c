"""An operator of a program tied to its arguments once, so that a call looks nothing up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from elit_edge.errors import PackageError
from elit_edge.export.mil.operators import OPERATORS, Operator
from elit_edge.export.mil.operators.table import SETTINGS, Tensors
from elit_edge.export.mil.program import Operation

Values = list[Any]
"""The tensors of one run, by slot."""


class Bound(NamedTuple):
    """`compute` takes the values of a run, and reads those in the slots `reads`."""

    compute: Callable[[Values], Any]
    reads: frozenset[int]


def bind(operation: Operation, slot_of: Callable[[str], int], constant: Callable[[str], Any]) -> Bound:
    """Tie an operator to its arguments.

    Args:
        operation: from the program.
        slot_of: where the value of a name stands in a run.
        constant: the Python value of a constant, None if the name is of none.

    Raises:
        PackageError: the operator is not in the table, or its arguments are not those that the table knows; the
            message lacks package and function.
    """
    operator = OPERATORS.get(operation.type)
    if operator is None:
        raise PackageError(
            f"operator {operation.name!r} is of type {operation.type!r}, which elit-edge cannot evaluate; "
            f"it knows {', '.join(sorted(OPERATORS))}"
        )
    settings: dict[str, Any] = {}
    tensors: dict[str, int] = {}
    several: dict[str, tuple[int, ...]] = {}
    computed_settings: dict[str, tuple[Callable[[Any], Any], int]] = {}
    for mil_name, names in operation.arguments.items():
        parameter, kind = _parameter(operation, operator, mil_name)
        if kind == Tensors:
            several[parameter] = tuple(slot_of(name) for name in names)
        elif kind is Tensor:
            tensors[parameter] = slot_of(names[0])
        elif (value := constant(names[0])) is not None:
            settings[parameter] = SETTINGS[kind](value)
        else:
            computed_settings[parameter] = (SETTINGS[kind], slot_of(names[0]))
    missing = operator.required - {*settings, *tensors, *several, *computed_settings}
    if missing:
        raise PackageError(f"operator {operation.name!r} ({operation.type}) lacks {', '.join(sorted(missing))}")
    function = operator.compute

    def compute(values: Values) -> Any:
        arguments = {name: values[slot] for name, slot in tensors.items()}
        for name, slots in several.items():
            arguments[name] = tuple(values[slot] for slot in slots)
        for name, (convert, slot) in computed_settings.items():
            arguments[name] = convert(values[slot].tolist())
        return function(**arguments, **settings)

    reads = {
        *tensors.values(),
        *(slot for slots in several.values() for slot in slots),
        *(slot for _, slot in computed_settings.values()),
    }
    return Bound(compute, frozenset(reads))


def _parameter(operation: Operation, operator: Operator, mil_name: str) -> tuple[str, Any]:
    """The name and the kind of a parameter in the table."""
    parameter = mil_name if mil_name in operator.kinds else f"{mil_name}_"
    kind = operator.kinds.get(parameter)
    if kind is None:
        raise PackageError(
            f"operator {operation.name!r} ({operation.type}) has a parameter {mil_name!r}; "
            f"elit-edge knows {', '.join(operator.kinds)}"
        )
    count = len(operation.arguments[mil_name])
    if count != 1 and kind != Tensors:
        raise PackageError(
            f"operator {operation.name!r} ({operation.type}) has {count} values for {mil_name!r}, expected 1"
        )
    return parameter, kind
