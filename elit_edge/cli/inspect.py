"""`elit-edge inspect`: what a bundle holds, alone or beside another one."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from elit_edge.budget import guidance_saving, guided_flops, parameters
from elit_edge.bundle import Bundle
from elit_edge.labels import in_short
from elit_edge.ladder import static_budgets
from elit_edge.manifest import CoreMlModel, Decoder, Engine, Manifest, encode
from elit_edge.model_config import ModelConfig
from elit_edge.verdict import Calibration


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--compare",
    "other",
    type=click.Path(path_type=Path),
    metavar="A.elit",
    help="Show A.elit beside BUNDLE, and how many times A's figures are BUNDLE's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest itself, or the comparison.")
def command(bundle: Path, other: Path | None, as_json: bool) -> None:
    """Show the model, budgets, graphs and provenance of BUNDLE, after checking every byte of it."""
    if other is not None:
        from elit_edge.cli import comparing

        comparing.show(Bundle.open(other).files, Bundle.open(bundle).files, as_json=as_json)
        return
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
    parity = "not verified"
    if found:
        parity = (
            f"worst {found.worst.psnr_db:g} dB of {found.cases} checks (gate {found.gate_db:g} dB, {found.runtime})"
        )
    quality = "not evaluated: elit-edge evaluate BUNDLE"
    if manifest.quality:
        quality = f"{len(manifest.quality.cells)} plans measured on {manifest.quality.pictures} pictures each"
    versions = f"elit-edge {origin.elit_edge}, torch {origin.torch}"
    lines = {
        manifest.name: f"{model.architecture}, {parameters(model) / 1e6:.1f} M weights, {shape_words(model)}",
        "samples": f"{model.in_channels} x {model.image_size} x {model.image_size} {manifest.sample_space}",
        "classes": names,
        "defaults": f"{sampler.steps} steps {sampler.solver}, {sampler.guidance} {sampler.scale:g}",
        **_guidance(manifest),
        "parity": parity,
        "quality": quality,
        **{each.precision: _calibration(each) for each in manifest.calibrations},
        **{f"{each.library} {each.precision}": _engine(each) for each in manifest.engines if each.role == "velocity"},
        **{f"core ml {each.layout} {each.variant}": _packages(each) for each in manifest.coreml},
        **{f"{each.kind} decoder": _decoder(each, manifest) for each in manifest.decoders},
        "source": f"{origin.source} (sha256 {origin.source_sha256[:12]}…), {versions}",
    }
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{width}}{words}" for name, words in lines.items())


def shape_words(model: ModelConfig) -> str:
    """Width, heads, blocks and latents."""
    split = f"{model.head_depth}-{model.core_depth}-{model.tail_depth}" if model.is_elastic else str(model.depth)
    grid = f"{model.groups} x {model.latents_per_group} latents" if model.is_elastic else "no latents"
    return f"width {model.hidden_size}, {model.num_heads} heads, {split} blocks, {grid}"


def _guidance(manifest: Manifest) -> dict[str, str]:
    """What a weak pass at a small budget saves, where the bundle's guidance has one."""
    model, kind, weak, full = (
        manifest.model,
        manifest.sampler.guidance,
        manifest.sampler.weak_latents,
        manifest.budgets[-1],
    )
    if kind not in ("ccfg", "autoguidance") or weak == full:
        return {}
    costs, usual = (guided_flops(model, full, latents) / 1e9 for latents in (weak, full))
    return {
        "guidance": f"a {kind} step at {full} and {weak} latents costs {costs:.4g} of cfg's {usual:.4g} GFLOPs, "
        f"conditions included: {guidance_saving(model, full, weak):.1%} saved"
    }


def _decoder(decoder: Decoder, manifest: Manifest) -> str:
    size = sum(manifest.files[name].bytes for name in (decoder.path, decoder.weights)) / 1e6
    parity, tiling = decoder.parity, decoder.tiling
    return (
        f"{decoder.layout} {decoder.precision}, {size:.1f} MB: worst {parity.psnr_db:.1f} dB of {parity.cases} "
        f"({parity.latents}), {tiling.psnr_db:.1f} dB in tiles of {tiling.latents} latents"
    )


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
    heads = ("latents a group", "GFLOPs a step", "of full", "MB a step")
    shown = static_budgets(manifest.budgets)
    table = Table(*heads, title="Budgets", title_justify="left", caption_justify="left")
    for rung in manifest.ladder:
        if rung.latents in shown:
            flops = (f"{rung.velocity_flops / 1e9:.3f}", f"{rung.velocity_flops / full:.0%}")
            moved = None if rung.moved_bytes is None else rung.moved_bytes / 1e6
            table.add_row(str(rung.latents), *flops, "unknown" if moved is None else f"{moved:.1f}")
    if len(shown) < len(manifest.ladder):
        table.caption = f"the {len(manifest.ladder) - len(shown)} budgets between them work too"
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
    for decoder in manifest.decoders:
        size = manifest.files[decoder.path].bytes / 1e3
        table.add_row(decoder.path, f"{decoder.kind} decoder", "", decoder.precision, f"{size:.0f}")
    weights = [*(graph.weights for graph in manifest.graphs), *(decoder.weights for decoder in manifest.decoders)]
    for path in dict.fromkeys(weights):
        table.add_row(path, "weights", "", "", f"{manifest.files[path].bytes / 1e3:.0f}")
    return table
