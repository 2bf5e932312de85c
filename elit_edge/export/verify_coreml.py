"""A bundle's Core ML packages against PyTorch: what is saved, evaluated."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from elit_edge.bundle_files import BundleFiles
from elit_edge.export.to_coreml.checking import check
from elit_edge.manifest import CoreMlModel, CoreMlParity
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.runtimes.reference.session import ModelSession


@dataclass(frozen=True)
class PackageParity:
    """How near the packages of one layout and variant are to PyTorch."""

    model: CoreMlModel
    found: CoreMlParity | None
    """None: coremltools, which reads them, is not there."""


def verify_coreml(
    files: BundleFiles, model: Callable[[], DiffusionTransformer], report: Callable[[float], None] = lambda _: None
) -> tuple[PackageParity, ...]:
    """Hold every package of a bundle to the gate of its variant; the torch model is made if there is any.

    Raises:
        ParityError: one is too far from the model; the message names the worst case.
        PackageError: one cannot be evaluated.
    """
    if importlib.util.find_spec("coremltools") is None:
        return tuple(PackageParity(each, None) for each in files.manifest.coreml)
    if not files.manifest.coreml:
        return ()
    reference = ModelSession(model(), files.manifest)
    return tuple(
        PackageParity(each, check(files.manifest, files.folder, each.functions, each.variant, reference, report))
        for each in files.manifest.coreml
    )
