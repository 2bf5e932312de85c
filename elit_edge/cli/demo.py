"""`elit-edge demo`: the shipped sample model from checkpoint to pictures."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click
import numpy as np

from elit_edge.bundle import Bundle
from elit_edge.cli.reporting import say, stages
from elit_edge.evaluation.attachment import attach, shipped_table
from elit_edge.files import refuse_existing
from elit_edge.generation import Generation, Images, generate
from elit_edge.pictures import captioned_sheet, save_png, settings_of
from elit_edge.runtimes.contract import Session

SAMPLE = "sample.safetensors"
BUDGETS = (1, 2, 4, 8, 16)
SEED = 5


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("elit-edge-demo"),
    show_default=True,
    help="Folder for the bundle and the sheet.",
)
@click.option("--force", is_flag=True, help="Make everything anew.")
def command(output: Path, force: bool) -> None:
    """Export the sample model, verify it, and draw every class at five budgets with the time of a step of each."""
    from elit_edge.cli.extras import require_export

    require_export()
    from elit_edge.export.exporter import export
    from elit_edge.model.checkpoint import read_checkpoint

    target, sheet_path = output / "sample.elit", output / "sheet.png"
    output.mkdir(parents=True, exist_ok=True)
    refuse_existing(sheet_path, replace=force)
    with stages() as report, resources.as_file(resources.files("elit_edge.data") / SAMPLE) as path:
        exported = export(read_checkpoint(path), target, force=force, report=report)
        made: dict[int, Generation] = {}
        bundle = Bundle.open(target)
        table = shipped_table(exported.manifest.provenance.source_sha256)
        if table is not None and bundle.manifest.quality is None:
            attach(bundle, table)
        with bundle.prepare("onnxruntime") as session:
            for done, latents in enumerate(BUDGETS):
                report("draw", done / len(BUDGETS))
                made[latents] = _draw(session, latents)
    names = exported.manifest.model.class_names or ()
    images = np.stack([_pixels(made[latents]) for latents in BUDGETS], axis=1)
    captions = [f"{latents} latents\n{np.median(made[latents].step_ms) / len(names):.2f} ms" for latents in BUDGETS]
    sheet = captioned_sheet(images.reshape(-1, *images.shape[2:]), names, captions)
    save_png(sheet, sheet_path, settings_of(made[BUDGETS[-1]], exported.manifest), replace=force)
    found = exported.manifest.verification
    parity = f"  (parity of every graph with PyTorch: at least {found.worst.psnr_db:g} dB)" if found else ""
    say(f"bundle  {target}{parity}")
    say(f"sheet   {sheet_path}  (classes by budgets; milliseconds of a guided step a picture, batch {len(names)})")
    say(f"next    elit-edge generate {target} --label heart --latents 4 --seed 0 -o heart.png")


def _draw(session: Session, latents: int) -> Generation:
    """Every class once, from the same noise at every budget."""
    classes = range(session.manifest.model.num_classes)
    return generate(session, list(classes), latents=latents, seed=SEED)


def _pixels(generation: Generation) -> Images:
    assert generation.images is not None, "the sample model makes pixels"
    return generation.images
