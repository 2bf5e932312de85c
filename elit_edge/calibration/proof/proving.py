"""The paired test of a precision against float32: velocities, pictures, speed and size, budget by budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from elit_edge.bundle_files import BundleFiles, sha256_of
from elit_edge.calibration.proof.gates import faults
from elit_edge.calibration.proof.held_out import least_psnr_db
from elit_edge.calibration.proof.picturing import Compared, Recipe, Report, compare
from elit_edge.device import probe
from elit_edge.errors import BudgetError, BundleError, RequestError, RuntimeUnavailable
from elit_edge.evaluation.evaluating import open_network
from elit_edge.evaluation.features import FeatureNetwork
from elit_edge.manifest import Manifest
from elit_edge.parity import GATE_DB
from elit_edge.profiling.choosing import candidates_of
from elit_edge.profiling.turns import turns_of
from elit_edge.runtimes.contract import Session
from elit_edge.runtimes.registry import choose
from elit_edge.verdict import BudgetVerdict, Speed, Verdict

TORCH = "reference"
"""The runtime that no precision is made for."""


def prove(
    files: BundleFiles,
    precision: str,
    *,
    budgets: Sequence[int],
    pictures: int,
    steps: int,
    seed: int,
    features: Path | None,
    threads: int | None,
    report: Report,
) -> Verdict:
    """Hold a precision to float32 at equal seeds, and judge it.

    Velocities and pictures are computed by one runtime for both, ONNX Runtime if it can.

    Args:
        files: a bundle with graphs of fp32 and the precision, open, or still being made: sizes are those on the disk.
        precision: which one.
        budgets: of the bundle's ladder, at least one.
        pictures: at each budget and precision, their labels spread over the classes; at least 2, or 0 for none.
        steps: of a picture; the reference's pictures take twice as many, in float32 at the full budget.
        seed: of the pictures, in batches of 16 as `evaluate` draws them. The states of the velocities and the
            reference's other pictures come from seeds 2^32 and 2^33 farther.
        features: an ONNX feature network for the Frechet distance, of fewer features than there are pictures.
        threads: CPU threads; None leaves it to the runtimes.
        report: progress, by stage: velocities, pictures, speed.

    Returns:
        The verdict, with its faults. A picture that is not finite or flat is one of them.

    Raises:
        RequestError, BudgetError: settings that nothing can be judged by.
        RuntimeUnavailable: no runtime here computes both precisions; the message says why.
        PictureError: float32 itself makes no pictures at the full budget, or no trajectories.
    """
    manifest = files.manifest
    ladder = tuple(sorted(set(budgets)))
    if not ladder or not set(ladder) <= set(manifest.budgets):
        raise BudgetError(f"budgets {list(budgets)}: the bundle's are {list(manifest.budgets)}; give at least one")
    network = check_settings(manifest, pictures, steps, features, threads)
    recipe = Recipe(pictures, steps, seed)
    with both_sessions(files, precision, threads) as (fp32, own):
        nearness = {}
        for done, latents in enumerate(ladder):
            report("velocities", done / len(ladder))
            nearness[latents] = least_psnr_db(fp32, own, latents, seed)
        compared, broken = compare(fp32, own, ladder, recipe, network, report) if pictures else ({}, ())
        computed_by = fp32.runtime
    report("speed", 0)
    speeds, failed = _speeds(files, precision, threads)
    verdict = Verdict(
        gate_db=GATE_DB[precision],
        pictures=pictures,
        steps=steps,
        seed=seed,
        features_sha256=None if features is None else sha256_of(features),
        budgets=tuple(_budget(latents, psnr_db, compared.get(latents)) for latents, psnr_db in nearness.items()),
        speeds=speeds,
        failed=failed,
        size_ratio=_bytes(files, precision) / _bytes(files, "fp32"),
        device=_device_words(computed_by),
        faults=(),
    )
    return msgspec.structs.replace(verdict, faults=(*broken, *faults(verdict)))


def check_settings(
    manifest: Manifest, pictures: int, steps: int, features: Path | None, threads: int | None
) -> FeatureNetwork | None:
    """What a proof can be asked for, before the work that it is for; and the feature network, if one was given.

    Raises:
        RequestError: settings that nothing can be judged by.
    """
    if pictures < 0 or pictures == 1 or steps < 1:
        raise RequestError(f"pictures = {pictures}, steps = {steps}: at least two pictures (or none) and one step")
    return open_network(features, manifest, pictures, threads)


def _budget(latents: int, psnr_db: float, compared: Compared | None) -> BudgetVerdict:
    departure, loss, frechet = compared or (None, None, None)
    return BudgetVerdict(latents=latents, psnr_db=psnr_db, departure=departure, loss=loss, frechet=frechet)


def _runtimes(files: BundleFiles, precision: str) -> dict[str, tuple[str, set[str]]]:
    """Version of the ready runtimes, and which of fp32 and the precision each takes; ONNX Runtime first."""
    found: dict[str, tuple[str, set[str]]] = {}
    for wanted in ("fp32", precision):
        for name, able, version in candidates_of(files, "auto", wanted)[0]:
            if name != TORCH:
                found.setdefault(name, (version, set()))[1].add(able)
    return found


@contextmanager
def both_sessions(files: BundleFiles, precision: str, threads: int | None) -> Iterator[tuple[Session, Session]]:
    """Float32 and the precision on the first runtime that takes both, ONNX Runtime if it can.

    Raises:
        RuntimeUnavailable: none here does; the message says why.
    """
    refused = [lost.words() for lost in candidates_of(files, "auto", precision)[1] if lost.runtime != TORCH]
    for name, (_, able) in _runtimes(files, precision).items():
        if not {"fp32", precision} <= able:
            continue
        with ExitStack() as opening:
            try:
                fp32, own = (
                    opening.enter_context(choose(name).prepare(files, each, threads)) for each in ("fp32", precision)
                )
            except BundleError as error:
                refused.append(f"{name}: {error}")
                continue
            yield fp32, own
            return
    raise RuntimeUnavailable(
        f"no runtime here computes both fp32 and {precision}, so neither can be held to the other: "
        + ("; ".join(refused) or "none is ready; pip install onnxruntime")
    )


def _speeds(files: BundleFiles, precision: str, threads: int | None) -> tuple[tuple[Speed, ...], tuple[str, ...]]:
    """Times of all runtimes in turn; and who failed, with the reason."""
    able = {name: found for name, found in _runtimes(files, precision).items() if "fp32" in found[1]}
    contestants = [(name, each) for name, (_, has) in able.items() for each in ("fp32", precision) if each in has]
    turns = turns_of(files, contestants, threads)
    speeds = [
        Speed(
            runtime=name,
            version=version,
            latents=latents,
            fp32_ms=turns.pass_ms[name, "fp32"][place],
            own_ms=turns.pass_ms[name, precision][place] if (name, precision) in turns.pass_ms else None,
        )
        for name, (version, _) in able.items()
        if (name, "fp32") in turns.pass_ms
        for place, latents in enumerate(turns.latents)
    ]
    return tuple(speeds), tuple(f"{name} {each}: {why}" for (name, each), why in turns.failed.items())


def _bytes(files: BundleFiles, precision: str) -> int:
    graphs = [graph for graph in files.manifest.graphs if graph.precision == precision and graph.latents is None]
    names = {name for graph in graphs for name in (graph.path, graph.weights)}
    return sum(files.path(name).stat().st_size for name in names)


def _device_words(runtime: str) -> str:
    device = probe(measure=False)
    name = device.cpu.model or device.name or device.machine or "a processor that does not tell its name"
    usable = "" if device.cpu.usable_cpus is None else f", {device.cpu.usable_cpus:g} CPUs usable"
    version = next(state.version for state in device.runtimes if state.name == runtime)
    return f"{name}{usable}; velocities and pictures on {runtime} {version}"
