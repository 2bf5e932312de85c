"""coremltools for those who write and read packages: imported on demand, quietly, and with its known faults mended."""

from __future__ import annotations

import functools
from typing import Any

from elit_edge.export.mil.coremltools_fixes import mend
from elit_edge.runtimes.coreml_ import library


@functools.cache
def coremltools() -> Any:
    """The module. The first call takes seconds.

    Raises:
        RuntimeUnavailable: it is not installed, or a part that it needs is not.
    """
    module = library.coremltools()
    mend()
    return module
