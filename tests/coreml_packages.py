"""Core ML packages for tests: made and held to PyTorch by the real compiler."""

from __future__ import annotations

import gc
import shutil
import warnings
from pathlib import Path

from elit_edge.bundle_files import BundleFiles


def add_packages(bundle: Path, copy: Path, *recipes, budgets: tuple[int, ...] = ()) -> Path:
    """A copy of a bundle with packages of each recipe.

    coremltools leaves a temporary folder to the garbage collector, which warns: it is collected here, in silence.
    """
    from elit_edge.export.to_coreml.compiling import compile_packages

    shutil.copytree(bundle, copy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for recipe in recipes:
            compile_packages(BundleFiles.open(copy), recipe, budgets=budgets)
        gc.collect()
    return copy
