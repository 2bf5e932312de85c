"""Make the published types of TensorRT readable: tensorrt-stubs 10.13.0.35.1 has a few lines that are no Python.

They stand in the environment that runs this; the types of the other 10,000 lines are as published.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

MENDS = (
    (r"\bin: list\[", "in_: list["),  # a parameter called `in`
    (r"channel_axis: int\) -> IScaleLayer", "channel_axis: int = ...) -> IScaleLayer"),  # no default after defaults
)


def main() -> None:
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("tensorrt-stubs is not installed here: pip install --no-deps tensorrt-stubs==10.13.0.35.1")
    path = Path(next(iter(spec.submodule_search_locations)), "tensorrt.pyi")
    text = path.read_text()
    for pattern, replacement in MENDS:
        text = re.sub(pattern, replacement, text)
    path.write_text(text)


if __name__ == "__main__":
    main()
