"""The table of operators. Importing this package fills it."""

from elit_edge.export.mil.operators import (
    activations,
    arithmetic,
    compressed,
    products,
    reductions,
    shapes,
    slices,
)
from elit_edge.export.mil.operators.table import OPERATORS, Operator

__all__ = [
    "OPERATORS",
    "Operator",
    "activations",
    "arithmetic",
    "compressed",
    "products",
    "reductions",
    "shapes",
    "slices",
]
