"""What a person writes for numbers: with units (2s, 800ms, 500MB), or several with commas (1,4,16)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import click

SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0}
BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class _Quantity(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """A positive number with a unit."""

    units: Mapping[str, float]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]+)\s*", str(value))
        units = {unit.lower(): factor for unit, factor in self.units.items()}
        if found is None or found[2].lower() not in units:
            self.fail(f"{value!r}: a number with a unit is wanted ({', '.join(self.units)})", param, ctx)
        amount = float(found[1]) * units[found[2].lower()]
        if not 0 < amount < math.inf:
            self.fail(f"{value!r}: must be more than nothing", param, ctx)
        return amount


class Duration(_Quantity):
    """Seconds, from 2s or 800ms or 1min."""

    name = "TIME"
    units = SECONDS


class Size(_Quantity):
    """Bytes, from 500MB or 2GiB."""

    name = "BYTES"
    units = BYTES


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """Whole numbers separated by commas."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no number, nor a list of numbers separated by commas", param, ctx)
