"""Writing MIL: settings that several operators of a function share are written once."""

from __future__ import annotations

from typing import Any

import numpy as np

from elit_edge.export.mil.library import coremltools

DEFAULTS: dict[str, dict[str, Any]] = {
    "concat": {"interleave": False},
    "conv": {"strides": [1, 1], "pad_type": "valid", "pad": [0, 0, 0, 0], "dilations": [1, 1], "groups": 1},
}
"""What coremltools would write for each operator anew."""


class Writer:
    """coremltools' builder for the function that is open: `writer.add(x=..., y=...)` writes an operator.

    A function of a transformer has hundreds of operators, and most of its text would be settings of a few kinds.
    """

    def __init__(self, *, marked: bool = False) -> None:
        """`marked`: operators without a name get one that begins with `part`."""
        self.part = ""
        self._marked, self._count = marked, 0
        self._builder = coremltools().converters.mil.Builder
        self._constants: dict[tuple[object, ...], Any] = {}

    def __getattr__(self, operator: str) -> Any:
        build = getattr(self._builder, operator)
        if operator == "const":
            return build

        def write(name: str | None = None, **given: Any) -> Any:
            settings = {**DEFAULTS.get(operator, {}), **given}
            written = {key: self._variable(value) for key, value in settings.items()}
            if name is None and self._marked:
                self._count += 1
                name = f"{self.part or 'stream'}.{operator}_{self._count}"
            return build(**written, **({} if name is None else {"name": name.replace(".", "_")}))

        return write

    def _variable(self, value: Any) -> Any:
        """Variables as they are; any other value as a constant of this function."""
        if isinstance(value, str | bool | int | float | np.generic):
            key: tuple[object, ...] = (type(value), value)
        elif isinstance(value, list) and all(isinstance(each, int) for each in value):
            key = ("list", *value)
        else:
            return value
        if key not in self._constants:
            constant = np.array(value, np.int32) if isinstance(value, list) else value
            self._constants[key] = self._builder.const(val=constant, name=f"c{len(self._constants)}")
        return self._constants[key]
