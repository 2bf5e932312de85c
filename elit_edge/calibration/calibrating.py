"""One bundle in, the same with one more precision out: set, scheme, graphs, proof, in a folder that appears whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx_ir as ir

from elit_edge.bundle import Bundle
from elit_edge.bundle_files import (
    CALIBRATION_FOLDER,
    BundleFiles,
    check_replaceable,
    file_entries,
    staged_folder,
    write_manifest,
)
from elit_edge.calibration import schemes
from elit_edge.calibration.collecting import collect
from elit_edge.calibration.headroom import describe, measure
from elit_edge.calibration.observing import Observed, observe
from elit_edge.calibration.proof.proving import check_settings, prove
from elit_edge.calibration.record import Headroom, Layer, Record, Treatment, encode
from elit_edge.calibration.rewriting import rewrite, stored_weights
from elit_edge.calibration.schemes import Evidence, Scheme
from elit_edge.calibration.set_file import load_set, save_set
from elit_edge.calibration.sites import ROLES, Site, find_sites, weight_of
from elit_edge.calibration.states import CalibrationSet, default_recipe, source_digest
from elit_edge.errors import CalibrationError
from elit_edge.export.half import TYPES, narrow, stored_halves
from elit_edge.export.peaks import Peaks
from elit_edge.export.weights_file import write_tensors
from elit_edge.fit import calibration_memory_bytes, check_disk, check_memory, resident_bytes
from elit_edge.manifest import Graph, Manifest, Precision, Role
from elit_edge.model.bundle_weights import model_of_bundle
from elit_edge.verdict import Calibration
from elit_edge.version import __version__

SCHEMES: tuple[Precision, ...] = ("int8", "int8-dynamic", "w8", "w4", "fp16", "bf16")
NEEDS_SET: tuple[Precision, ...] = ("int8", "w4", "fp16")
PICTURES = 64
SEED = 1
DIGITS = 5

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Calibrated:
    """What a calibration left at its target."""

    manifest: Manifest
    calibration: Calibration
    record: Record


def calibrate(
    bundle: Bundle,
    scheme: Precision,
    target: Path,
    *,
    states: Path | None = None,
    features: Path | None = None,
    pictures: int = PICTURES,
    seed: int = SEED,
    threads: int | None = None,
    accept_anyway: bool = False,
    force: bool = False,
    report: Report = lambda _stage, _share: None,
    say: Callable[[str], None] = lambda _words: None,
) -> Calibrated:
    """Write the bundle `target`: all that `bundle` holds, and the graphs and weights of one more precision.

    Args:
        bundle: with float32 graphs; it is not changed.
        scheme: the precision.
        target: a folder NAME.elit.
        states: a calibration set's file, which is written where there is none; None keeps the set to itself.
        features: an ONNX feature network for the Frechet distance of the proof.
        pictures: of the proof, at each budget and precision.
        seed: of the proof's pictures.
        threads: CPU threads; None leaves it to the runtimes.
        accept_anyway: write the bundle though its verdict refuses it; the verdict stays what it is.
        force: replace what stands at the target.
        report: progress.
        say: told what a person should know on the way.

    Raises:
        CalibrationError: the bundle or the set cannot be calibrated, or the verdict refuses the result.
        BundleError: the target exists, or cannot be written.
        ExportError: a weight that fp16 cannot hold.
        FitError: the memory or the disk is too small; nothing was begun.
        RequestError, RuntimeUnavailable: settings that no proof can be made with; no runtime here for it.
    """
    files = bundle.files
    _check(files, scheme, target)
    check_settings(files.manifest, pictures, files.manifest.sampler.steps, features, threads)
    if force:
        check_replaceable(target)
    with staged_folder(target, replace=force) as stage:
        for path in files.manifest.files:
            (stage / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files.path(path), stage / path)
        staged = BundleFiles(stage, files.manifest)
        found = _set(bundle, states, threads, report, say) if scheme in NEEDS_SET else None
        graphs, layers, headroom = _write_precision(staged, scheme, found, threads, report)
        name = target.name.removesuffix(".elit")
        grown = msgspec.structs.replace(files.manifest, name=name, graphs=(*files.manifest.graphs, *graphs))
        verdict = prove(
            BundleFiles(stage, grown),
            scheme,
            budgets=default_recipe(files).budgets if found is None else found.recipe.budgets,
            pictures=pictures,
            steps=grown.sampler.steps,
            seed=seed,
            features=features,
            threads=threads,
            report=report,
        )
        if verdict.faults and not accept_anyway:
            raise CalibrationError(
                f"{scheme} of {files.manifest.name} is refused: {'; '.join(verdict.faults)}. Nothing was written; "
                "another scheme may do, and --accept-anyway writes the bundle with this verdict in it"
            )
        report("seal", 0)
        record = Record(
            precision=scheme,
            source_sha256=source_digest(files),
            elit_edge=__version__,
            set=None if found is None else found.summary(),
            layers=layers,
            headroom=headroom,
        )
        calibration = Calibration(
            precision=scheme,
            record=f"{CALIBRATION_FOLDER}/{scheme}.json",
            set_sha256=None if found is None else found.digest,
            float_layers=tuple(layer.name for layer in layers if layer.treatment != scheme),
            verdict=verdict,
        )
        (stage / CALIBRATION_FOLDER).mkdir(exist_ok=True)
        (stage / calibration.record).write_bytes(encode(record))
        grown = msgspec.structs.replace(
            grown, calibrations=(*grown.calibrations, calibration), files=file_entries(stage)
        )
        write_manifest(stage, grown)
    return Calibrated(grown, calibration, record)


def _check(files: BundleFiles, scheme: Precision, target: Path) -> None:
    """Ask before the work rather than after it."""
    name = files.manifest.name
    if scheme not in SCHEMES:
        raise CalibrationError(f"unknown scheme {scheme!r}; there are: {', '.join(SCHEMES)}")
    source_digest(files)
    if scheme in files.manifest.precisions:
        raise CalibrationError(
            f"bundle {name} has {scheme} already; calibrate the bundle that it was made from, "
            f"or see it: elit-edge calibrate {files.folder} --report PAGE.html"
        )
    if target.exists() and target.resolve() == files.folder.resolve():
        raise CalibrationError(f"{target} is the bundle itself, which is never changed; give the new one another name")
    needed = sum(entry.bytes for entry in files.manifest.files.values())
    check_memory(
        calibration_memory_bytes(files.manifest) - resident_bytes(),
        f"calibrating {name}",
        "close other programs",
    )
    check_disk(target.absolute().parent, 2 * needed, f"calibrating {name}")


def _set(
    bundle: Bundle, path: Path | None, threads: int | None, report: Report, say: Callable[[str], None]
) -> CalibrationSet:
    if path is not None and path.exists():
        return load_set(path, bundle.manifest, source_digest(bundle.files))
    with bundle.prepare("onnxruntime", "fp32", threads) as session:
        found = collect(session, default_recipe(bundle.files), report, say)
    if path is not None:
        save_set(path, found, replace=False)
    return found


def _write_precision(
    staged: BundleFiles, scheme: Precision, states: CalibrationSet | None, threads: int | None, report: Report
) -> tuple[tuple[Graph, ...], tuple[Layer, ...], Headroom | None]:
    sources = {role: staged.manifest.graph(role, "fp32") for role in ROLES}
    models = {role: ir.load(staged.graph_path(graph)) for role, graph in sources.items()}
    sites = [site for role, model in models.items() for site in find_sites(model, role)]
    weights = staged.graph_path(sources["velocity"]).with_name(f"weights-{scheme}.safetensors")
    seen: Mapping[str, Observed] = {}
    headroom = None
    if scheme in TYPES:
        plans = Scheme({})
        peaks = dict.fromkeys(ROLES, Peaks())
        if states is not None:
            peaks = _measured(staged, states, threads, report)
            headroom = describe(models, peaks)
        report("rewrite", 0)
        tensors = write_tensors(weights, stored_halves(models.values(), scheme), lambda _: None)
        for role, model in models.items():
            narrow(model, scheme, tensors, peaks[role].overflowing(model.graph))
    else:
        if states is not None:
            seen = _observed(staged, sites, states, threads, report)
        plans = _plans(staged, scheme, models, sites, states, seen, report)
        report("rewrite", 0)
        tensors = write_tensors(weights, stored_weights(models, plans.plans, plans.scalings), lambda _: None)
        for model in models.values():
            rewrite(model, plans.plans, tensors)
    graphs = []
    for role, model in models.items():
        path = weights.with_name(f"{role}-{scheme}.onnx")
        ir.save(model, path)
        folder = weights.parent.relative_to(staged.folder)
        graphs.append(
            msgspec.structs.replace(
                sources[role],
                precision=scheme,
                path=(folder / path.name).as_posix(),
                weights=(folder / weights.name).as_posix(),
            )
        )
    left = {(node.graph, node.name) for node in headroom.wide} if headroom else set()
    layers = (
        _layer(site, "fp32" if (site.role, site.node) in left else scheme, plans, seen.get(site.name)) for site in sites
    )
    return tuple(graphs), tuple(layers), headroom


def _measured(staged: BundleFiles, states: CalibrationSet, threads: int | None, report: Report) -> dict[Role, Peaks]:
    condition, velocity = (staged.graph_path(staged.manifest.graph(role, "fp32")) for role in ROLES)
    return measure(condition, velocity, states, threads, lambda share: report("observe", share))


def _observed(
    staged: BundleFiles, sites: list[Site], states: CalibrationSet, threads: int | None, report: Report
) -> dict[str, Observed]:
    paths = [staged.graph_path(staged.manifest.graph(role, "fp32")) for role in ROLES]
    return observe(paths[0], paths[1], sites, states, threads, lambda share: report("observe", share))


def _plans(
    staged: BundleFiles,
    scheme: Precision,
    models: Mapping[Role, ir.Model],
    sites: list[Site],
    states: CalibrationSet | None,
    seen: Mapping[str, Observed],
    report: Report,
) -> Scheme:
    def weight(site: Site) -> schemes.FloatArray:
        return weight_of(models, site)

    if scheme == "int8-dynamic":
        return schemes.dynamic(sites, weight)
    if scheme == "w8":
        return schemes.eight_bits(sites, weight)
    assert states is not None
    evidence = Evidence(model_of_bundle(staged, "fp32"), states, seen)
    if scheme == "w4":
        return schemes.four_bits(sites, weight, evidence, report)
    return schemes.static(sites, weight, evidence, report)


def _layer(site: Site, unplanned: Treatment, scheme: Scheme, seen: Observed | None) -> Layer:
    plan = scheme.plans.get(site.name)
    treatment = unplanned if plan is None else plan.treatment
    choice = plan.choice if plan is not None else None
    ranges = (
        ()
        if seen is None
        else tuple(
            msgspec.structs.replace(each, low=_rounded(each.low), high=_rounded(each.high)) for each in seen.ranges
        )
    )
    return Layer(
        name=site.name,
        inputs=site.inputs,
        outputs=site.outputs,
        treatment=treatment,
        observer=None if choice is None else choice.observer,
        bound=None if choice is None else _rounded(choice.bound),
        alpha=None if choice is None else choice.alpha,
        sensitivity=tuple(scheme.sensitivities.get(site.name, ())),
        ranges=ranges,
    )


def _rounded(value: float) -> float:
    """To as many digits as anyone reads."""
    return float(f"{value:.{DIGITS}g}")
