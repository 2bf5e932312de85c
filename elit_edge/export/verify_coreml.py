"""A bundle's Core ML packages against PyTorch: what is saved, evaluated."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from elit_edge.bundle_files import BundleFiles
from elit_edge.export.to_coreml.checking import check
from elit_edge.export.verify import Cases, reference_cases
from elit_edge.manifest import CoreMlModel, CoreMlParity
from elit_edge.model.transformer import DiffusionTransformer


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
    budgets = {function.latents for each in files.manifest.coreml for function in each.functions if function.latents}
    cases = reference_cases(model(), files.manifest, sorted(budgets))
    return tuple(PackageParity(each, _checked(files, each, cases, report)) for each in files.manifest.coreml)


def _checked(
    files: BundleFiles, model: CoreMlModel, cases: Sequence[Cases], report: Callable[[float], None]
) -> CoreMlParity:
    budgets = {function.latents for function in model.functions}
    own = [each for each in cases if each.latents in budgets]
    return check(files.manifest, files.folder, model.functions, model.variant, own, report)
