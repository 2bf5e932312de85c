"""Helpers of these tests that are no fixtures."""

from __future__ import annotations

import numpy as np
import torch

from elit_edge.export.mil.operators import OPERATORS
from elit_edge.export.mil.operators.table import SETTINGS, Tensors


def as_tensor(value):
    array = np.asarray(value)
    if array.dtype in (np.float16, np.float64):
        array = array.astype(np.float32)
    if array.dtype == np.int64:
        array = array.astype(np.int32)
    return torch.from_numpy(np.array(array))


def computed(op_type, **arguments):
    """What the table makes of arguments as numpy and Python have them; a list where there are several outputs."""
    operator = OPERATORS[op_type]
    given = {}
    for mil_name, value in arguments.items():
        parameter = mil_name if mil_name in operator.kinds else f"{mil_name}_"
        kind = operator.kinds[parameter]
        if kind == Tensors:
            given[parameter] = tuple(as_tensor(one) for one in value)
        elif kind is torch.Tensor:
            given[parameter] = as_tensor(value)
        else:
            given[parameter] = SETTINGS[kind](value)
    result = operator.compute(**given)
    return result.numpy() if isinstance(result, torch.Tensor) else [one.numpy() for one in result]


def relative_rms(found, wanted):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean())
