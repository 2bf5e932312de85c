"""`elit-edge bench`: a device report; `bench page` draws one, `bench compare` puts two side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from elit_edge.cli.quantities import Duration
from elit_edge.cli.reporting import say, sheet_table, stages
from elit_edge.files import appearing_file, refuse_existing

if TYPE_CHECKING:
    from elit_edge.bench.comparing import Comparison
    from elit_edge.bench.report import Report

ACROSS = ("device", "bundle", "threads", "versions")
WIDE = ("min", "of product")
"""Columns that a terminal has no room for."""


class Kinds(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """Kinds of difference, separated by commas."""

    name = "KIND[,KIND...]"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        kinds = tuple(value.split(",")) if isinstance(value, str) else value
        strange = [kind for kind in kinds if kind not in ACROSS]
        if strange:
            self.fail(f"{', '.join(strange)!r}: there is {', '.join(ACROSS)}", param, ctx)
        return kinds


class Bench(click.Group):
    """`bench BUNDLE` is `bench run BUNDLE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Bench, subcommand_metavar="BUNDLE | COMMAND [ARGS]...")
def command() -> None:
    """Measure what a bundle costs on this device: `bench BUNDLE` is short for `bench run BUNDLE`."""


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runtime", default="auto", show_default=True, help="One, or auto for all that are ready.")
@click.option("--precision", help="One; all that a runtime can compute if not given.")
@click.option("--threads", type=int, help="CPU threads of one call; the runtimes decide if not given.")
@click.option("--window", type=Duration(), default="3s", show_default=True, help="Measuring time of each budget.")
@click.option("--sustained", type=Duration(), help="Then run the fastest back to back for so long, such as 10min.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page as well.")
@click.option("--force", is_flag=True, help="Replace the page if it exists.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print everything, as docs/bench-report.schema.json describes it."
)
def run(
    bundle: Path,
    runtime: str,
    precision: str | None,
    threads: int | None,
    window: float,
    sustained: float | None,
    html: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure each ready runtime and precision: cold, warm at every budget, memory, energy, quality beside speed."""
    from elit_edge.bench.measuring import bench
    from elit_edge.bench.report import encode
    from elit_edge.bundle import Bundle

    if html is not None:
        from elit_edge.bench.plots import require_plots

        require_plots()
        refuse_existing(html, replace=force)
    with stages() as progress:
        progress("digests", 0)
        report = bench(
            Bundle.open(bundle),
            runtime=runtime,
            precision=precision,
            threads=threads,
            window_s=window,
            sustained_s=sustained,
            progress=progress,
            say=say,
        )
    if as_json:
        click.echo(encode(report), nl=False)
    else:
        _print(report)
    if html is not None:
        _draw(report, html, force)


@command.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The page to write."
)
@click.option("--force", is_flag=True, help="Replace the page if it exists.")
def page(report: Path, output: Path, force: bool) -> None:
    """Draw the page of a REPORT that `bench --json` wrote, here or on another device."""
    from elit_edge.bench.report import read

    refuse_existing(output, replace=force)
    _draw(read(report), output, force)


@command.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--across", type=Kinds(), default=(), help=f"Differences that are meant: {', '.join(ACROSS)}.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(a: Path, b: Path, across: tuple[str, ...], as_json: bool) -> None:
    """Compare the reports A and B: how many times A's time B takes, and whether that is more than noise."""
    from elit_edge.bench import comparing
    from elit_edge.bench.report import read

    found = comparing.compare(read(a), read(b), across)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
    else:
        _print_comparison(found)


def _draw(report: Report, path: Path, force: bool) -> None:
    from elit_edge.bench.page import page as drawn

    text = drawn(report)
    with appearing_file(path, replace=force) as file:
        file.write(text.encode())
    say(f"page: {path}")


def _print(report: Report) -> None:
    from elit_edge.bench import sheets

    console = Console()
    console.print(Text(f"{report.bundle} on {sheets.headline(report)}"))
    for warning in sheets.warnings(report):
        console.print(Text(warning, style="yellow"))
    shown = [sheets.glance(report), *(sheets.budgets(each, report).without(*WIDE) for each in report.candidates)]
    shown += [sheets.placement(each) for each in report.candidates if each.placement]
    if report.sustained is not None:
        shown.append(sheets.bins(report.sustained))
    if report.lost:
        shown.append(sheets.lost(report.lost))
    for sheet in shown:
        console.print(sheet_table(sheet))
    if report.sustained is not None:
        _print_facts(console, list(sheets.sustained_facts(report.sustained)))
    _print_facts(console, list(sheets.context(report)))


def _print_facts(console: Console, facts: list[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, words in facts:
        table.add_row(Text(name), Text(words))
    console.print(table)


def _print_comparison(found: Comparison) -> None:
    console = Console()
    for warning in found.warnings:
        console.print(Text(warning, style="yellow"))
    for difference in found.differences:
        console.print(Text(f"across {difference.words()}"))
    table = Table(title="B against A: one pass, medians in ms", title_justify="left", box=None, padding=(0, 1))
    for head in ("runtime", "latents", "A", "B", "B / A", "95%", ""):
        table.add_column(head, justify="left" if head in ("runtime", "") else "right")
    for row in found.ratios:
        table.add_row(
            Text(f"{row.runtime} {row.precision}"),
            str(row.latents),
            f"{row.a_ms:.3g}",
            f"{row.b_ms:.3g}",
            f"{row.ratio:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
            row.verdict,
        )
    console.print(table)
    for words in found.alone:
        console.print(Text(words))
