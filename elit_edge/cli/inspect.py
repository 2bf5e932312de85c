"""`elit-edge inspect`: what a bundle holds."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from elit_edge.budget import parameters
from elit_edge.bundle import Bundle
from elit_edge.labels import in_short
from elit_edge.manifest import CoreMlModel, Engine, Manifest, encode
from elit_edge.verdict import Calibration


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest itself.")
def command(bundle: Path, as_json: bool) -> None:
    """Show the model, budgets, graphs and provenance of BUNDLE, after checking every byte of it."""
    manifest = Bundle.open(bundle).manifest
    if as_json:
        click.echo(encode(manifest).decode(), nl=False)
        return
    console = Console()
    console.print(_summary(manifest), highlight=False, markup=False, soft_wrap=True)
    console.print(_budgets(manifest))
    console.print(_graphs(manifest))


def _summary(manifest: Manifest) -> str:
    model, found, sampler, origin = manifest.model, manifest.verification, manifest.sampler, manifest.provenance
    names = in_short(model.class_names) if model.class_names else f"{model.num_classes}, unnamed"
    split = f"{model.head_depth}-{model.core_depth}-{model.tail_depth}" if model.is_elastic else str(model.depth)
    grid = f"{model.groups} x {model.latents_per_group} latents" if model.is_elastic else "no latents"
    parity = "not verified"
    if found:
        parity = (
            f"worst {found.worst.psnr_db:g} dB of {found.cases} checks (gate {found.gate_db:g} dB, {found.runtime})"
        )
    quality = "not evaluated: elit-edge evaluate BUNDLE"
    if manifest.quality:
        quality = f"{len(manifest.quality.cells)} plans measured on {manifest.quality.pictures} pictures each"
    weights = f"{parameters(model) / 1e6:.1f} M weights"
    size = f"{weights}, width {model.hidden_size}, {model.num_heads} heads, {split} blocks, {grid}"
    versions = f"elit-edge {origin.elit_edge}, torch {origin.torch}"
    lines = {
        manifest.name: f"{model.architecture}, {size}",
        "samples": f"{model.in_channels} x {model.image_size} x {model.image_size} {manifest.sample_space}",
        "classes": names,
        "defaults": f"{sampler.steps} steps {sampler.solver}, {sampler.guidance} {sampler.scale:g}",
        "parity": parity,
        "quality": quality,
        **{each.precision: _calibration(each) for each in manifest.calibrations},
        **{f"{each.library} {each.precision}": _engine(each) for each in manifest.engines if each.role == "velocity"},
        **{f"core ml {each.layout} {each.variant}": _packages(each) for each in manifest.coreml},
        "source": f"{origin.source} (sha256 {origin.source_sha256[:12]}…), {versions}",
    }
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{width}}{words}" for name, words in lines.items())


def _calibration(calibration: Calibration) -> str:
    verdict = calibration.verdict
    state = "accepted" if verdict.accepted else f"refused: {verdict.faults[0]}"
    near = f"{verdict.worst_psnr_db:.1f} dB to fp32 at its worst budget"
    return f"{near}, {verdict.size_ratio:.3f} of its bytes, {state}"


def _engine(engine: Engine) -> str:
    where = f"on {engine.compiled_on}" if engine.compiled_on else "without a GPU"
    count = f"{len(engine.profiles)} profile{'s' if len(engine.profiles) > 1 else ''}"
    capabilities = ", ".join(engine.compute_capabilities)
    return f"engines of {engine.version} for {engine.platform}, {capabilities}; {count}, compiled {where}"


def _packages(model: CoreMlModel) -> str:
    budgets = sorted({function.latents for function in model.functions if function.latents})
    batches = sorted({function.batch for function in model.functions if function.latents})
    found = model.parity
    room = "" if found.headroom is None else f", float16 head-room {found.headroom:g}x"
    return (
        f"{len(budgets)} budgets at batch {' and '.join(map(str, batches))}, iOS {model.ios}, coremltools "
        f"{model.version}; evaluated: worst {found.psnr_db:g} dB{room}"
    )


def _budgets(manifest: Manifest) -> Table:
    full = manifest.ladder[-1].velocity_flops
    table = Table("latents a group", "GFLOPs a step", "of full", title="Budgets", title_justify="left")
    for rung in manifest.ladder:
        table.add_row(str(rung.latents), f"{rung.velocity_flops / 1e9:.3f}", f"{rung.velocity_flops / full:.0%}")
    return table


def _graphs(manifest: Manifest) -> Table:
    table = Table("graph", "role", "latents", "precision", "kB", title="Graphs", title_justify="left")
    for graph in manifest.graphs:
        size = manifest.files[graph.path].bytes / 1e3
        table.add_row(graph.path, graph.role, str(graph.latents or "any"), graph.precision, f"{size:.0f}")
    for engine in manifest.engines:
        size = manifest.files[engine.path].bytes / 1e3
        table.add_row(engine.path, f"{engine.role} engine", "any", engine.precision, f"{size:.0f}")
    for model in manifest.coreml:
        for package in dict.fromkeys(function.package for function in model.functions):
            held = [function for function in model.functions if function.package == package]
            size = sum(entry.bytes for name, entry in manifest.files.items() if name.startswith(f"{package}/")) / 1e3
            latents = sorted({function.latents for function in held if function.latents})
            span = f"{latents[0]} to {latents[-1]}" if len(latents) > 1 else str(latents[0]) if latents else "any"
            table.add_row(package, f"{held[0].role} package", span, model.variant, f"{size:.0f}")
    for path in dict.fromkeys(graph.weights for graph in manifest.graphs):
        table.add_row(path, "weights", "", "", f"{manifest.files[path].bytes / 1e3:.0f}")
    return table
