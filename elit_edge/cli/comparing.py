"""`elit-edge inspect --compare A BUNDLE`: what two bundles are and cost, side by side."""

from __future__ import annotations

from operator import attrgetter

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from elit_edge.budget import flops, guided_flops, parameters
from elit_edge.bundle_files import BundleFiles
from elit_edge.cli.inspect import shape_words
from elit_edge.cli.reporting import say
from elit_edge.costs import Costs
from elit_edge.manifest import Manifest
from elit_edge.profiling.choosing import profiles_of


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class AtBudget(_Struct, frozen=True, kw_only=True):
    """What one budget costs and gives."""

    latents: int
    step_flops: int
    """Of one velocity of one sample."""
    guided_step_flops: int
    """Of a step under the bundle's own guidance, conditions included; of its one pass where it has none."""
    pass_ms: float | None
    """One sample, on the side's `runtime`; None where this device's cache knows none."""
    distance: float | None
    """As `elit-edge evaluate` measured it in the most steps, from the bundle's own reference; None where it did not."""


class Side(_Struct, frozen=True, kw_only=True):
    """One of the two bundles."""

    bundle: str
    architecture: str
    shape: str
    """Width, heads, blocks and latents, in words."""
    precisions: tuple[str, ...]
    weights: int
    """Numbers, however they are stored."""
    weights_bytes: int
    """Files of weights of the graphs, all precisions together."""
    disk_bytes: int
    """All that the manifest lists."""
    full: AtBudget
    least: AtBudget
    """The same for a model of one budget: the uniform-compute baseline."""
    runtime: str | None
    """The fastest over the ladder that this device's cache knows, and its precision."""
    parity_db: float | None
    """The worst against PyTorch; None: never verified."""


class Comparison(_Struct, frozen=True, kw_only=True):
    """Two bundles, and by field of a side how many times a's figure is b's: all that both know but decibels."""

    a: Side
    b: Side
    ratios: dict[str, float]


FIGURES: dict[str, tuple[str, float, str]] = {
    "weights": ("M weights", 1e6, ""),
    "weights_bytes": ("MB of weights", 1e6, ""),
    "disk_bytes": ("MB on disk", 1e6, ""),
    "full.step_flops": ("GFLOPs a step, full", 1e9, ""),
    "least.step_flops": ("GFLOPs a step, least", 1e9, ""),
    "full.guided_step_flops": ("GFLOPs guided, full", 1e9, ""),
    "least.guided_step_flops": ("GFLOPs guided, least", 1e9, ""),
    "full.pass_ms": ("ms a pass, full", 1, "not measured"),
    "least.pass_ms": ("ms a pass, least", 1, "not measured"),
    "full.distance": ("distance, full", 1, "not evaluated"),
    "least.distance": ("distance, least", 1, "not evaluated"),
    "parity_db": ("parity, dB", 1, "not verified"),
}
"""Fields of a side: what a person reads, in which unit, and what stands for None."""


def compare(a: BundleFiles, b: BundleFiles) -> Comparison:
    """Put two checked bundles side by side; nothing is measured."""
    one, other = _side(a), _side(b)
    pairs = {name: (attrgetter(name)(one), attrgetter(name)(other)) for name in FIGURES if name != "parity_db"}
    ratios = {name: second / first for name, (first, second) in pairs.items() if first and second is not None}
    return Comparison(a=one, b=other, ratios=ratios)


def show(a: BundleFiles, b: BundleFiles, *, as_json: bool) -> None:
    """Print the comparison."""
    found = compare(a, b)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
        return
    Console().print(_table(found))
    for side, files in ((found.a, a), (found.b, b)):
        if side.runtime is None:
            say(f"{side.bundle} was not measured on this device: elit-edge bench {files.folder}")


def _side(files: BundleFiles) -> Side:
    manifest = files.manifest
    ladder = {rung.latents: rung.velocity_flops for rung in manifest.ladder}
    profiles = profiles_of(files, measure_missing=False, report=say)
    profile = profiles.fastest(ladder)[0] if profiles.found else None
    costs = Costs(profile, ladder) if profile else None
    files_of_weights = {graph.weights for graph in manifest.graphs}
    full, least = (_at(manifest, latents, costs) for latents in (manifest.budgets[-1], manifest.budgets[0]))
    return Side(
        bundle=manifest.name,
        architecture=manifest.model.architecture,
        shape=shape_words(manifest.model),
        precisions=manifest.precisions,
        weights=parameters(manifest.model),
        weights_bytes=sum(manifest.files[name].bytes for name in files_of_weights),
        disk_bytes=sum(entry.bytes for entry in manifest.files.values()),
        full=full,
        least=least,
        runtime=f"{profile.runtime} {profile.precision}" if profile else None,
        parity_db=manifest.verification.worst.psnr_db if manifest.verification else None,
    )


def _at(manifest: Manifest, latents: int, costs: Costs | None) -> AtBudget:
    model, sampler = manifest.model, manifest.sampler
    weak = latents if sampler.guidance == "cfg" else sampler.weak_latents
    alone = flops(model, latents)
    cells = [
        cell
        for cell in (manifest.quality.cells if manifest.quality else ())
        if (cell.latents, cell.guidance) == (latents, sampler.guidance)
        and (sampler.guidance not in ("ccfg", "autoguidance") or cell.weak_latents == weak)
    ]
    return AtBudget(
        latents=latents,
        step_flops=alone.velocity,
        guided_step_flops=alone.total if sampler.guidance == "none" else guided_flops(model, latents, weak),
        pass_ms=costs.pass_ms(latents, 1) if costs else None,
        distance=max(cells, key=lambda cell: cell.steps).distance if cells else None,
    )


def _table(found: Comparison) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("", f"A: {found.a.bundle}", f"B: {found.b.bundle}", "B / A"):
        table.add_column(Text(head), justify="right" if head == "B / A" else "left", no_wrap=not head)
    sides = (found.a, found.b)
    table.add_row("architecture", *(Text(side.architecture) for side in sides))
    table.add_row("shape", *(Text(side.shape) for side in sides))
    table.add_row("budgets", *(_budgets(side) for side in sides))
    table.add_row("precisions", *(", ".join(side.precisions) for side in sides))
    table.add_row("fastest here", *(side.runtime or "not measured" for side in sides))
    for name, (words, unit, missing) in FIGURES.items():
        ratio = found.ratios.get(name)
        figures = (attrgetter(name)(side) for side in sides)
        shown = (missing if figure is None else _number(figure / unit) for figure in figures)
        table.add_row(words, *shown, "" if ratio is None else f"{ratio:.3f}")
    return table


def _budgets(side: Side) -> str:
    least, full = side.least.latents, side.full.latents
    return "one" if least == full else f"{least} to {full} latents"


def _number(figure: float) -> str:
    return f"{figure:.1f}" if figure >= 100 else f"{figure:.3g}"
