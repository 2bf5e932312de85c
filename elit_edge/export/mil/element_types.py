"""The element types of MIL, and what stands for each here: integers below 8 bits and unsigned ones are widened."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch


class ElementType(NamedTuple):
    """One type of MIL.

    `stored`: what a file holds, unpacked. `bits`: in a file. `computed`: of the tensor, which holds every value of the
    type; floats are always float32. A string has neither.
    """

    name: str
    bits: int
    stored: np.dtype[np.generic] | None
    computed: torch.dtype | None

    @property
    def is_float(self) -> bool:
        return self.computed is torch.float32


def _row(name: str, bits: int, stored: type[np.generic], computed: torch.dtype) -> tuple[str, ElementType]:
    return name, ElementType(name, bits, np.dtype(stored), computed)


ELEMENT_TYPES = dict(
    [
        _row("float16", 16, np.float16, torch.float32),
        _row("float32", 32, np.float32, torch.float32),
        _row("bool", 8, np.bool_, torch.bool),
        _row("int4", 4, np.int8, torch.int8),
        _row("int8", 8, np.int8, torch.int8),
        _row("int16", 16, np.int16, torch.int16),
        _row("int32", 32, np.int32, torch.int32),
        _row("int64", 64, np.int64, torch.int64),
        _row("uint1", 1, np.uint8, torch.uint8),
        _row("uint2", 2, np.uint8, torch.uint8),
        _row("uint3", 3, np.uint8, torch.uint8),
        _row("uint4", 4, np.uint8, torch.uint8),
        _row("uint6", 6, np.uint8, torch.uint8),
        _row("uint8", 8, np.uint8, torch.uint8),
        _row("uint16", 16, np.uint16, torch.int32),
        _row("uint32", 32, np.uint32, torch.int64),
        ("string", ElementType("string", 0, None, None)),
    ]
)
"""By the name that the file format gives them, in small letters."""

SHORT_NAMES = {"fp16": "float16", "fp32": "float32"}
"""As operators that take a type say it ("cast", "quantize"); the others are the same."""


def element_type(short_name: str) -> ElementType:
    return ELEMENT_TYPES[SHORT_NAMES.get(short_name, short_name)]
