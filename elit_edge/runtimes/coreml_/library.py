"""coremltools, imported in one place: on demand and quietly; and whether it can be used here."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

from elit_edge.errors import RuntimeUnavailable
from elit_edge.runtimes.contract import Missing, Ready, library_state

PACKAGE = "coremltools"
REMEDY = "pip install 'elit-edge[coreml]'"
CORE_ML_PART = "libcoremlpython*"
"""The file of coremltools that calls Core ML; only its wheels for macOS have it."""


def coremltools() -> Any:
    """The module. The first call takes seconds.

    Raises:
        RuntimeUnavailable: it is not installed, or a part that it needs is not.
    """
    logger = logging.getLogger(PACKAGE)
    level = logger.level
    # it logs which parts a Mac alone has, and every torch and scikit-learn newer than itself
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(PACKAGE)
    except ImportError as error:
        raise RuntimeUnavailable(
            f"Core ML packages need coremltools, which cannot be imported here ({error}); {REMEDY}"
        ) from error
    finally:
        logger.setLevel(level)


def state() -> Ready | Missing:
    """Whether it is installed with the part that computes; nothing is imported."""
    found = library_state(PACKAGE, REMEDY)
    spec = importlib.util.find_spec(PACKAGE)
    if isinstance(found, Missing) or spec is None or spec.origin is None:
        return found
    if any(Path(spec.origin).parent.glob(CORE_ML_PART)):
        return found
    return Missing(
        f"coremltools {found.version} is installed without the part that calls Core ML: it was built from source",
        "pip install --force-reinstall --only-binary :all: coremltools",
    )
