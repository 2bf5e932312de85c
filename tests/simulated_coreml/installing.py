"""Puts the simulation below the real coremltools for a while, and undoes it whole."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from elit_edge.runtimes.coreml_ import library, system
from simulated_coreml import core_ml

USED_BY = {
    "coremltools.models._compiled_model": ("_MLModelProxy",),
    "coremltools.models.compute_plan": ("_MLModelProxy", "_MLComputePlanProxy"),
    "coremltools.models.compute_device": (
        "_MLCPUComputeDeviceProxy",
        "_MLGPUComputeDeviceProxy",
        "_MLNeuralEngineComputeDeviceProxy",
    ),
}
"""Where coremltools keeps names of its native part. `compile_model` imports it when it is called."""
ASK_VERSION = ("coremltools.models._compiled_model", "coremltools.models.utils")
PRESENT_FILE = "libmilstoragepython*"
"""A file of coremltools that Linux has too, in the place of the one that it lacks."""


@contextmanager
def simulated_mac(**settings: object) -> Iterator[core_ml.Machine]:
    """A Mac with coremltools.

    Args:
        settings: of `core_ml.Machine`: what machine it is.

    Yields:
        the machine, to be looked at and changed.
    """
    library.coremltools()
    with pytest.MonkeyPatch.context() as patch:
        machine = core_ml.Machine(**settings)
        patch.setattr(core_ml, "machine", machine)
        patch.setitem(sys.modules, "coremltools.libcoremlpython", core_ml)
        for name, own in USED_BY.items():
            module = importlib.import_module(name)
            for each in own:
                patch.setattr(module, each, getattr(core_ml, each))
        for name in ASK_VERSION:
            patch.setattr(importlib.import_module(name), "_macos_version", lambda: machine.macos)
        patch.setattr(system, "macos", lambda: machine.macos)
        patch.setattr(library, "CORE_ML_PART", PRESENT_FILE)
        yield machine
