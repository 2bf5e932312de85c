"""`elit-edge export`: a checkpoint in, a bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from elit_edge.cli.quantities import Numbers
from elit_edge.cli.reporting import say, stages
from elit_edge.fit import amount


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle: a folder NAME.elit.")
@click.option("--config", type=click.Path(path_type=Path), help="JSON with what the checkpoint does not say.")
@click.option(
    "--class-names",
    type=click.Path(path_type=Path),
    help="Names of the classes in their order: one a line, or a JSON list; synonyms after a comma and a space.",
)
@click.option(
    "--vae",
    "vaes",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Decoder of the latents, in diffusers' layout; a second one of the other kind for previews.",
)
@click.option("--dtype", type=click.Choice(["fp32", "fp16"]), default="fp32", help="Of weights and graphs.")
@click.option("--vae-dtype", type=click.Choice(["fp32", "fp16"]), help="Of the decoders; that of --dtype if not given.")
@click.option("--budgets", type=Numbers(), default=(), help="Budgets with a graph of fixed shapes, and checked.")
@click.option("--no-verify", is_flag=True, help="Skip the parity gate; the bundle is marked unverified.")
@click.option("--force", is_flag=True, help="Replace a bundle that stands there.")
def command(
    checkpoint: Path,
    output: Path,
    config: Path | None,
    class_names: Path | None,
    vaes: tuple[Path, ...],
    dtype: Literal["fp32", "fp16"],
    vae_dtype: Literal["fp32", "fp16"] | None,
    budgets: tuple[int, ...],
    no_verify: bool,
    force: bool,
) -> None:
    """Compile CHECKPOINT (the authors' .pt, or .safetensors) into a bundle with every budget over one copy of weights.

    Every graph is held against PyTorch before the bundle appears; one that fails leaves nothing behind.
    """
    from elit_edge.cli.extras import require_export

    require_export()
    from elit_edge.cli.sources import read_source
    from elit_edge.export.exporter import export
    from elit_edge.export.vae.source import read_vae
    from elit_edge.model.class_names import imagenet_class_names

    with stages() as report:
        source = read_source(checkpoint, config, class_names)
        if vaes:
            report("vae", 0)
        decoders = [read_vae(vae) for vae in vaes]
        exported = export(
            source,
            output,
            dtype=dtype,
            budgets=budgets,
            vaes=decoders,
            vae_dtype=vae_dtype,
            check=not no_verify,
            force=force,
            report=report,
        )
    manifest = exported.manifest
    if not exported.fresh:
        say(f"{output} is up to date")
        return
    size = amount(sum(entry.bytes for entry in manifest.files.values()))
    parity = "not verified"
    if manifest.verification:
        worst = manifest.verification.worst
        parity = f"worst parity {worst.psnr_db:g} dB ({worst.graph}, {worst.latents} latents, t = {worst.t:g})"
    budgets_words = "one budget" if len(manifest.ladder) == 1 else f"{len(manifest.ladder)} budgets"
    say(f"{output}: {budgets_words}, {size}, {parity}")
    for each in manifest.decoders:
        say(
            f"{each.kind} decoder ({each.layout}, {each.precision}): {each.parity.psnr_db:g} dB; in tiles of "
            f"{each.tiling.latents} latents {each.tiling.psnr_db:g} dB of the whole picture"
        )
    if manifest.model.class_names == imagenet_class_names():
        say("its 1000 classes have ImageNet's names; --class-names FILE gives them others")
