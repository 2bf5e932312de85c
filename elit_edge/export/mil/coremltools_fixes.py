"""Faults of coremltools 9.0 under newer numpy, mended in place; nothing is touched where they cannot occur.

From 2.4 on numpy turns neither an array of one number into Python's int, nor its own bool into Python's. Two places
rely on it: constants that the torch frontend casts ("int" of a shape), and reductions of constants in a program that
was read from a file.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib import NumpyVersion

FAULTY_COREMLTOOLS = "9.0"
STRICT_NUMPY = "2.4.0"

CASTS = "coremltools.converters.mil.frontend.torch.ops"
REDUCTIONS = "coremltools.converters.mil.mil.ops.defs.iOS15.reduction"
OPERATION = "coremltools.converters.mil.mil.operation"


def needed() -> bool:
    """Whether the installed pair is one in which the faults occur."""
    version: str = importlib.import_module("coremltools").__version__
    return version == FAULTY_COREMLTOOLS and bool(NumpyVersion(np.__version__) >= NumpyVersion(STRICT_NUMPY))


def mend() -> None:
    """Replace the faulty functions where they are; `__wrapped__` of each replacement is the original."""
    if needed():
        _replace(importlib.import_module(CASTS), "_cast", _cast)
        _replace(importlib.import_module(REDUCTIONS).ReductionAxes, "value_inference", _value_inference)


def _replace(holder: Any, name: str, mended: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    original = getattr(holder, name)
    if not hasattr(original, "__wrapped__"):
        setattr(holder, name, functools.wraps(original)(mended(original)))


def _cast(original: Callable[..., Any]) -> Callable[..., Any]:
    """A constant array of one number becomes that number; the original has all else."""
    frontend = importlib.import_module(CASTS)

    def cast(context: Any, node: Any, dtype: type, dtype_name: str) -> None:
        (value,) = frontend._get_inputs(context, node, expected=1)  # noqa: SLF001
        if isinstance(value.val, np.ndarray) and value.val.size == 1:
            number = frontend.mb.const(val=dtype(value.val.item()), name=node.name)
            context.add(number, node.name)
        else:
            original(context, node, dtype, dtype_name)

    return cast


def _value_inference(_original: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction of constants, with Python's bool for keepdims."""
    operation_module = importlib.import_module(OPERATION)

    def value_inference(operation: Any) -> Any:
        axes = None if operation.axes is None else tuple(operation.axes.val)
        reduced = operation.get_operator()(operation.x.val, axis=axes, keepdims=bool(operation.keep_dims.val))
        return np.asarray(reduced).astype(operation.x.val.dtype)[()]

    return operation_module.precondition(allow=operation_module.VALUE)(value_inference)
