"""coremltools, imported in one place: on demand, quietly, and with its known faults mended."""

from __future__ import annotations

import functools
import importlib
import logging
import warnings
from typing import Any

from elit_edge.errors import RuntimeUnavailable
from elit_edge.export.mil.coremltools_fixes import mend


@functools.cache
def coremltools() -> Any:
    """The module. The first call takes seconds.

    Raises:
        RuntimeUnavailable: it is not installed, or a part that it needs is not.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    # it logs which parts a Mac alone has, and every torch and scikit-learn newer than itself
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library = importlib.import_module("coremltools")
            mend()
    except ImportError as error:
        raise RuntimeUnavailable(
            f"Core ML packages need coremltools, which cannot be imported here ({error}); "
            "pip install 'elit-edge[coreml]'"
        ) from error
    finally:
        logger.setLevel(level)
    return library
