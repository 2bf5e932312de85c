"""`elit-edge evaluate`: measure what each plan of a bundle loses, and write it into the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from elit_edge.bundle import Bundle
from elit_edge.cli.quantities import Numbers
from elit_edge.cli.reporting import say, stages
from elit_edge.evaluation.attachment import attach
from elit_edge.evaluation.evaluating import PICTURES, evaluate
from elit_edge.evaluation.plans import STEPS
from elit_edge.quality import Cell, QualityTable


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--features", type=click.Path(path_type=Path), help="ONNX feature network for the Frechet distance.")
@click.option("--pictures", type=int, default=PICTURES, show_default=True, help="Pictures of each plan.")
@click.option("--steps", type=Numbers(), default=STEPS, help="Step counts of the grid; eleven, 1 to 48, if not given.")
@click.option("--latents", type=Numbers(), help="Budgets of the grid; about eight if not given.")
@click.option("--force", is_flag=True, help="Measure again what the bundle has already.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def command(bundle: Path, as_json: bool, **settings: Any) -> None:
    """Measure how far the pictures of each plan of BUNDLE are from those of its best, and keep it in the bundle.

    A plan is a number of steps, a budget and a guidance. The work is kept as it goes: a run that was ended goes on
    where it was.
    """
    with stages() as report:
        report("digests", 0)
        opened = Bundle.open(bundle)
        table = evaluate(opened, report=report, say=say, **settings)
        if table != opened.manifest.quality:
            attach(opened, table)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(table), indent=1).decode())
    else:
        Console().print(_distances(table))
    say(f"{bundle}: {len(table.cells)} plans and {len(table.bands)} bands of time, {table.pictures} pictures each")


def _distances(table: QualityTable) -> Table:
    """The bundle's own guidance: distances of steps by latents."""
    best = table.reference
    own = [c for c in table.cells if (c.guidance, c.weak_latents) == (best.guidance, best.weak_latents)]
    budgets = sorted({cell.latents for cell in own})
    found = {(cell.steps, cell.latents): cell for cell in own}
    what = "Distance" if best.frechet is None else "Distance (Frechet distance)"
    title = f"{what} to {best.steps} steps at {best.latents} latents a group, {best.guidance} {table.scale:g}"
    grid = Table("steps", *(f"J = {budget}" for budget in budgets), title=title, title_justify="left")
    for steps in sorted({cell.steps for cell in own}):
        grid.add_row(str(steps), *(_words(found.get((steps, budget))) for budget in budgets))
    return grid


def _words(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.distance:.3f}" + ("" if cell.frechet is None else f" ({cell.frechet:.2f})")
