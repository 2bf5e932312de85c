"""Operators of MIL, element by element: sums, products, powers, comparisons, casts."""

from __future__ import annotations

import torch
from torch import Tensor

from elit_edge.export.mil.element_types import element_type
from elit_edge.export.mil.operators.table import operator


@operator("add")
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, broadcast. Source: iOS15.elementwise_binary."""
    return torch.add(x, y)


@operator("sub")
def sub(x: Tensor, y: Tensor) -> Tensor:
    """x − y, broadcast. Source: iOS15.elementwise_binary."""
    return torch.sub(x, y)


@operator("mul")
def mul(x: Tensor, y: Tensor) -> Tensor:
    """x · y, broadcast. Source: iOS15.elementwise_binary."""
    return torch.mul(x, y)


@operator("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """x / y, broadcast; of integers too it is no integer. Source: iOS15.elementwise_binary."""
    return torch.true_divide(x, y)


@operator("floor_div")
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """x / y rounded down, also below zero. Source: iOS15.elementwise_binary."""
    return torch.floor_divide(x, y)


@operator("pow")
def power(x: Tensor, y: Tensor) -> Tensor:
    """x to the power y, broadcast. Source: iOS15.elementwise_binary."""
    return torch.pow(x, y)


@operator("maximum")
def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The greater of x and y, broadcast. Source: iOS15.elementwise_binary."""
    return torch.maximum(x, y)


@operator("minimum")
def minimum(x: Tensor, y: Tensor) -> Tensor:
    """The lesser of x and y, broadcast. Source: iOS15.elementwise_binary."""
    return torch.minimum(x, y)


@operator("greater_equal")
def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    """x ≥ y as bool, broadcast. Source: iOS15.elementwise_binary."""
    return torch.ge(x, y)


@operator("less")
def less(x: Tensor, y: Tensor) -> Tensor:
    """x < y as bool, broadcast. Source: iOS15.elementwise_binary."""
    return torch.lt(x, y)


@operator("select")
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where cond is true, b elsewhere. Source: iOS15.control_flow."""
    return torch.where(cond, a, b)


@operator("clip")
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """x held between alpha and beta. Source: iOS15.elementwise_unary."""
    return torch.clamp(x, alpha, beta)


@operator("sqrt")
def sqrt(x: Tensor) -> Tensor:
    """The square root. Source: iOS15.elementwise_unary."""
    return torch.sqrt(x)


@operator("rsqrt")
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """1 / sqrt(x + epsilon): the epsilon is under the root. Source: iOS15.elementwise_unary."""
    return torch.rsqrt(x + epsilon)


@operator("square")
def square(x: Tensor) -> Tensor:
    """x · x. Source: iOS15.elementwise_unary."""
    return torch.square(x)


@operator("exp")
def exp(x: Tensor) -> Tensor:
    """e to the power x. Source: iOS15.elementwise_unary."""
    return torch.exp(x)


@operator("cos")
def cos(x: Tensor) -> Tensor:
    """The cosine of radians. Source: iOS15.elementwise_unary."""
    return torch.cos(x)


@operator("sin")
def sin(x: Tensor) -> Tensor:
    """The sine of radians. Source: iOS15.elementwise_unary."""
    return torch.sin(x)


@operator("identity")
def identity(x: Tensor) -> Tensor:
    """x itself. Source: iOS15.tensor_operation."""
    return x


@operator("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    """x as another type: floats lose their fraction on the way to integers, and anything but 0 is true.

    Source: iOS15.elementwise_unary, iOS17.elementwise_unary. Rounding to float16 is the evaluator's, by its mode.
    """
    computed = element_type(dtype).computed
    assert computed is not None
    return x.to(computed)
