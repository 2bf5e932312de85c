"""What a set of packages shall be: layout, precision, compression, and the iOS that has to open it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from elit_edge.errors import RequestError

Layout = Literal["gpu", "ane"]
FloatPrecision = Literal["fp16", "fp32"]
Compression = Literal["int8", "int4", "lut6", "lut4", "w8a8"]
Ios = Literal[16, 17, 18, 26]

MULTIFUNCTION: Ios = 18
"""The first iOS whose packages hold several functions over one copy of the weights."""
FUSED_ATTENTION = 18
"""The first with scaled_dot_product_attention."""
NEEDS: dict[Compression, tuple[Ios, str]] = {
    "int8": (16, "constexpr_affine_dequantize"),
    "lut6": (16, "constexpr_lut_to_dense"),
    "lut4": (16, "constexpr_lut_to_dense"),
    "w8a8": (17, "quantize and dequantize"),
    "int4": (18, "constexpr_blockwise_shift_scale"),
}
"""The first iOS whose MIL has what a compression is made of. Source: the operator sets of coremltools 9."""


@dataclass(frozen=True)
class Range:
    """What a number was seen to be, over all states: the least and the greatest."""

    low: float
    high: float

    @property
    def greatest(self) -> float:
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Recipe:
    """One variant of the packages.

    Raises:
        RequestError: that iOS cannot hold it, or the settings contradict each other.
    """

    layout: Layout = "ane"
    precision: FloatPrecision = "fp16"
    compression: Compression | None = None
    ios: Ios = 18
    wide: frozenset[str] = frozenset()
    """Parts that are computed in float32 for want of float16's range: "blocks.3.mlp"."""
    prescale: dict[str, float] = field(default_factory=dict)
    """By which power of two what enters an RMS norm is multiplied, so that its sum of squares fits."""
    ranges: dict[str, Range] | None = None
    """What each operator of a marked package was seen to give; w8a8 rounds what enters and leaves a product to it."""
    marked: bool = False
    """For those who observe: every operator has a name that begins with its part, and each product stands between two
    operators that do nothing, of its own name with ".in" and ".out"."""

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.layout, Layout, "layout"),
            (self.precision, FloatPrecision, "precision"),
            (self.ios, Ios, "iOS"),
        ):
            if value not in get_args(known):
                raise RequestError(f"unknown {what} {value!r}; one of: {', '.join(map(str, get_args(known)))}")
        if self.compression is None:
            return
        if self.compression not in NEEDS:
            raise RequestError(f"unknown compression {self.compression!r}; one of: {', '.join(NEEDS)}")
        if self.precision == "fp32":
            raise RequestError(
                f"--compress {self.compression} goes with --precision fp16: what is not compressed is stored in float16"
            )
        least, operator = NEEDS[self.compression]
        if self.ios < least:
            raise RequestError(
                f"--compress {self.compression} needs --ios {least} or later: iOS {self.ios} has no {operator}"
            )

    @property
    def variant(self) -> str:
        """How numbers are stored: the compression, or the precision."""
        return self.compression or self.precision

    @property
    def multifunction(self) -> bool:
        """Whether all functions stand in one package."""
        return self.ios >= MULTIFUNCTION
