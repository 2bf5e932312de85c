"""`elit-edge compile --target coreml`: packages of one variant, proven, into the bundle."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from elit_edge.adding import adding
from elit_edge.bundle_files import COREML_FOLDER, BundleFiles, file_entry, write_manifest
from elit_edge.errors import BundleError
from elit_edge.export.mil.library import coremltools
from elit_edge.export.to_coreml.checking import check
from elit_edge.export.to_coreml.observing import fitted, observed_cases
from elit_edge.export.to_coreml.package import Emission, write_conditions, write_velocities
from elit_edge.export.to_coreml.recipe import Recipe
from elit_edge.export.to_coreml.weights import Weights, arrays_of
from elit_edge.export.verify import Cases, reference_cases
from elit_edge.files import current_umask
from elit_edge.fit import check_disk, coreml_bytes
from elit_edge.ladder import static_budgets
from elit_edge.manifest import CoreMlFunction, CoreMlModel, Manifest
from elit_edge.model.bundle_weights import model_of_bundle
from elit_edge.runtimes.coreml_.system import MACOS
from elit_edge.version import __version__

BATCHES, BATCHES_ALONE = (1, 2), (1,)
"""Samples of one call: one, and both passes of a guided step; where each function is a copy of the weights, one."""
SOURCE = "fp32"

Report = Callable[[str, float], None]


def compile_packages(
    files: BundleFiles,
    recipe: Recipe,
    *,
    budgets: tuple[int, ...] = (),
    license: str = "",  # noqa: A002  (the field's own name)
    report: Report = lambda _stage, _share: None,
) -> Manifest:
    """Put packages of one variant into a bundle, in the place of those of that layout and variant.

    Args:
        files: a checked bundle with float32 weights. It is replaced as a whole, or left as it was.
        recipe: what to make; what float16 needs for this model is found out here.
        budgets: latents a group; empty for the ladder of the bundle, or a part of it where that is long or dear.
        license: of the weights, for the packages' own metadata.
        report: progress.

    Returns:
        the bundle's new manifest.

    Raises:
        RuntimeUnavailable: coremltools is missing.
        BundleError: the bundle has no float32 weights, or changed meanwhile.
        BudgetError: budgets that it does not have.
        ExportError: the model's numbers do not fit into float16, or a package could not be written.
        ParityError: the packages do not compute what the model does; the bundle is as it was.
        FitError: the disk is too small.
    """
    library = coremltools()
    chosen = static_budgets(files.manifest.budgets, budgets, dear=not recipe.multifunction)
    with adding(files) as (current, stage):
        manifest = current.manifest
        if SOURCE not in manifest.precisions:
            raise BundleError(
                f"bundle {manifest.name} has no {SOURCE} weights, and packages are made from them; it has: "
                f"{', '.join(manifest.precisions)}. Export it again with --dtype fp32"
            )
        copies = 1 if recipe.multifunction else len(chosen)
        check_disk(stage.parent, coreml_bytes(manifest, recipe.variant, copies), f"compiling {manifest.name}")
        model = model_of_bundle(current, SOURCE)
        cases = reference_cases(model, manifest, chosen, lambda share: report("reference", share))
        observed: tuple[Cases, ...] = ()
        if recipe.precision == "fp16":
            observed = observed_cases(model, manifest, lambda share: report("float16 states", share))
        weights = Weights(arrays_of(model), recipe.compression, recipe.ios)
        emission = Emission(manifest.model, weights, recipe, _metadata(manifest, recipe, chosen, license))
        headroom = None
        if observed:
            emission, headroom = _fitting(emission, manifest, observed, report)
        place = f"{COREML_FOLDER}/{recipe.layout}-{recipe.variant}"
        functions = _write(emission, stage, place, chosen, report)
        del model, weights, emission
        gc.collect()  # coremltools' programs are rings of references, and hold what was written
        found = check(manifest, stage, functions, recipe.variant, cases, lambda share: report("core ml parity", share))
        report("seal", 0)
        made = CoreMlModel(
            layout=recipe.layout,
            precision=recipe.precision,
            compression=recipe.compression,
            ios=recipe.ios,
            version=library.__version__,
            functions=functions,
            parity=msgspec.structs.replace(found, headroom=headroom),
        )
        sealed = _sealed(manifest, made, stage, place)
        write_manifest(stage, sealed)
    return sealed


def _fitting(emission: Emission, manifest: Manifest, cases: Sequence[Cases], report: Report) -> tuple[Emission, float]:
    """The emission with what float16, and eight bits where asked for, need for this model; and the head-room."""
    recipe, seen = fitted(emission, manifest, cases, lambda share: report("float16 range", share))
    if recipe.compression == "w8a8":
        recipe = replace(recipe, ranges=seen.ranges)
    return replace(emission, recipe=recipe), round(seen.headroom, 1)


def _write(
    emission: Emission, stage: Path, place: str, budgets: tuple[int, ...], report: Report
) -> tuple[CoreMlFunction, ...]:
    """Both packages, in the place of those that were there; paths relative to the bundle.

    Raises:
        ExportError: coremltools refuses the graph.
    """
    folder = stage / place
    shutil.rmtree(folder, ignore_errors=True)  # names alone: other names of the same files stay with the old bundle
    folder.mkdir(parents=True)
    batches = BATCHES if emission.recipe.multifunction else BATCHES_ALONE
    velocities = write_velocities(
        emission, folder, budgets, batches=batches, report=lambda share: report("velocity", share)
    )
    report("condition", 0)
    functions = (write_conditions(emission, folder), *velocities)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~current_umask())
    return tuple(msgspec.structs.replace(function, package=f"{place}/{function.package}") for function in functions)


def _sealed(manifest: Manifest, made: CoreMlModel, stage: Path, place: str) -> Manifest:
    """The manifest with these packages and their digests."""
    models = [each for each in manifest.coreml if (each.layout, each.variant) != (made.layout, made.variant)]
    entries = {name: entry for name, entry in manifest.files.items() if not name.startswith(f"{place}/")}
    for path in (stage / place).rglob("*"):
        if path.is_file():
            entries[path.relative_to(stage).as_posix()] = file_entry(path)
    return msgspec.structs.replace(manifest, coreml=(*models, made), files=dict(sorted(entries.items())))


def _metadata(manifest: Manifest, recipe: Recipe, budgets: tuple[int, ...], license: str) -> dict[str, str]:  # noqa: A002
    model = manifest.model
    return {
        "description": f"{manifest.name}: velocity of an elastic diffusion transformer at {len(budgets)} budgets",
        "author": f"elit-edge {__version__}",
        "license": license or "not stated",
        "version": manifest.provenance.source_sha256[:16],
        "elit-edge.budgets": json.dumps(budgets),
        "elit-edge.class_names": json.dumps(model.class_names, ensure_ascii=False),
        "elit-edge.model": model.encoded().decode(),
        "elit-edge.layout": recipe.layout,
        "elit-edge.variant": recipe.variant,
        "elit-edge.opens_on": f"iOS {recipe.ios}, macOS {MACOS[recipe.ios]}",
        "elit-edge.source": f"{manifest.provenance.source}, sha256 {manifest.provenance.source_sha256}",
    }
