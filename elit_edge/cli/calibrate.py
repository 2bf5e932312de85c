"""`elit-edge calibrate`: one more precision for a bundle, held to float32 at every budget; and what was found."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.text import Text

from elit_edge.cli.reporting import say, sheet_table, stages
from elit_edge.errors import FitError, PictureError, RequestError, RuntimeUnavailable
from elit_edge.files import appearing_file, refuse_existing

if TYPE_CHECKING:
    from elit_edge.bundle import Bundle
    from elit_edge.calibration.record import Record
    from elit_edge.calibration.report.page import Sheet
    from elit_edge.verdict import Calibration

SCHEMES = ("int8", "int8-dynamic", "w8", "w4", "fp16", "bf16")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--scheme", type=click.Choice(SCHEMES), help="The precision; docs/calibration.md says what each is.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The new bundle: a folder NAME.elit.")
@click.option("--set", "states", type=click.Path(path_type=Path), help="Calibration set: read, or written if missing.")
@click.option("--features", type=click.Path(path_type=Path), help="ONNX feature network for the Frechet distance.")
@click.option("--pictures", type=int, default=64, show_default=True, help="Pictures of the proof, at each budget.")
@click.option("--threads", type=int, help="CPU threads of one call; the runtimes decide if not given.")
@click.option("--report", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page as well.")
@click.option("--accept-anyway", is_flag=True, help="Write the bundle though its verdict refuses it.")
@click.option("--force", is_flag=True, help="Replace what stands there.")
@click.option("--json", "as_json", is_flag=True, help="Print the calibration and its verdict as JSON.")
def command(
    bundle: Path,
    scheme: str | None,
    output: Path | None,
    states: Path | None,
    features: Path | None,
    pictures: int,
    threads: int | None,
    page: Path | None,
    accept_anyway: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write OUTPUT: all that BUNDLE holds, and graphs of one more precision, held to float32 at every budget.

    A precision that is neither faster nor smaller, or not as good, is refused. Without -o, show what was proven of a
    precision that BUNDLE has.
    """
    from elit_edge.bundle import Bundle

    if page is not None:
        from elit_edge.pages.drawing import require_packages

        require_packages("calibrate without --report")
        refuse_existing(page, replace=force)
    with stages() as report:
        report("digests", 0)
        opened = Bundle.open(bundle)
        if output is None:
            calibration, record = _present(opened, scheme)
        else:
            if scheme is None:
                raise RequestError(f"-o {output}: --scheme says which precision it shall have: {', '.join(SCHEMES)}")
            from elit_edge.cli.extras import require_export

            require_export()
            from elit_edge.calibration.calibrating import calibrate

            made = calibrate(
                opened,
                scheme,  # type: ignore[arg-type]  # one of SCHEMES
                output,
                states=states,
                features=features,
                pictures=pictures,
                threads=threads,
                accept_anyway=accept_anyway,
                force=force,
                report=report,
                say=say,
            )
            calibration, record = made.calibration, made.record
            opened = Bundle.open(output)
        if page is not None:
            report("page", 0)
            _draw(opened, calibration, record, page, threads, force)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(calibration), indent=1).decode())
    else:
        _print(opened, calibration, record)
    if output is not None:
        state = "accepted" if calibration.verdict.accepted else "REFUSED, written all the same"
        say(f"{output}: {scheme} {state}")


def _present(bundle: Bundle, scheme: str | None) -> tuple[Calibration, Record]:
    """The one that is asked for, or the only one."""
    from elit_edge.calibration.record import decode

    found = {each.precision: each for each in bundle.manifest.calibrations}
    if scheme is None and len(found) == 1:
        scheme = next(iter(found))
    if scheme not in found:
        have = ", ".join(found) or "none; --scheme and -o make one"
        raise RequestError(f"which calibration of bundle {bundle.manifest.name}? --scheme names it; it has: {have}")
    path = bundle.files.path(found[scheme].record)
    return found[scheme], decode(path.read_bytes(), str(path))


def _draw(
    bundle: Bundle, calibration: Calibration, record: Record, path: Path, threads: int | None, force: bool
) -> None:
    from elit_edge.calibration.report.page import page

    text = page(bundle.manifest, calibration, record, _sheet(bundle, calibration, threads))
    with appearing_file(path, replace=force) as file:
        file.write(text.encode())
    say(f"page: {path}")


def _sheet(bundle: Bundle, calibration: Calibration, threads: int | None) -> Sheet | None:
    """Pictures of both; none where the precision makes none that can be shown here, and why."""
    from elit_edge.calibration.proof.proving import both_sessions
    from elit_edge.calibration.report.page import draw_sheet

    verdict = calibration.verdict
    try:
        with ExitStack() as opening:
            float32, own = opening.enter_context(both_sessions(bundle.files, calibration.precision, threads))
            decoder = None
            if bundle.manifest.decoders:
                decoder = opening.enter_context(bundle.prepare_decoder(threads=threads, report=say))
            return draw_sheet(float32, own, [each.latents for each in verdict.budgets], verdict.seed, decoder)
    except (PictureError, FitError, RuntimeUnavailable) as error:
        say(f"no pictures on the page: {error}")
        return None


def _print(bundle: Bundle, calibration: Calibration, record: Record) -> None:
    from elit_edge.calibration.proof.gates import caveats
    from elit_edge.calibration.report import tables

    verdict, console = calibration.verdict, Console()
    console.print(Text(tables.headline(verdict, bundle.manifest.latents_per_group)))
    for words in (*(f"refused: {fault}" for fault in verdict.faults), *caveats(verdict)):
        console.print(Text(words, style="yellow"))
    for sheet in (tables.budgets(verdict), tables.speeds(verdict, calibration.precision)):
        console.print(sheet_table(sheet))
    if record.headroom is not None:
        console.print(sheet_table(tables.wide(record.headroom)))
        console.print(Text(tables.headroom(record.headroom)))
