"""`elit-edge compile`: engines for a target, put into the bundle that they are made of."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import msgspec

from elit_edge.bundle import Bundle
from elit_edge.cli.reporting import say, stages
from elit_edge.errors import Cancelled
from elit_edge.fit import amount, check_disk, engine_bytes
from elit_edge.manifest import Engine, Manifest
from elit_edge.runtimes.tensorrt_.compiling import PRECISIONS, chosen_precision, compile_bundle
from elit_edge.runtimes.tensorrt_.library import LIBRARIES


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(tuple(LIBRARIES)), required=True, help="The library that shall run it.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="The first of these that BUNDLE has.")
@click.option(
    "--profiles",
    "form",
    type=click.Choice(("range", "per-budget")),
    default="range",
    show_default=True,
    help="One profile for all budgets, or one tuned for each.",
)
@click.option(
    "--compute-capability",
    "capabilities",
    multiple=True,
    metavar="8.6",
    help="GPU to compile for (tensorrt-rtx; may be given again). Ampere and later if not given.",
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What builds measured: read and written (tensorrt).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the engines as JSON.")
def command(
    bundle: Path,
    target: str,
    precision: str | None,
    form: str,
    capabilities: tuple[str, ...],
    timing_cache: Path | None,
    as_json: bool,
) -> None:
    """Compile BUNDLE's graphs for a GPU, and keep the engines in BUNDLE.

    tensorrt compiles for the GPU of this machine; tensorrt-rtx for any of Ampere or later, without one.
    """
    with stages() as report, _interrupt() as cancelled:
        report("digests", 0)
        files = Bundle.open(bundle).files
        chosen = chosen_precision(files.manifest, precision)
        check_disk(bundle.absolute().parent, engine_bytes(files.manifest, chosen), f"compiling {files.manifest.name}")
        manifest = compile_bundle(
            files,
            LIBRARIES[target],
            chosen,
            form=form,  # type: ignore[arg-type]  # click checked it
            compute_capabilities=capabilities,
            timing_cache=timing_cache,
            report=report,
            cancelled=cancelled,
        )
    made = [each for each in manifest.engines if (each.library, each.precision) == (target, chosen)]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(made), indent=1).decode())
    for engine in made:
        say(_words(manifest, engine))


def _words(manifest: Manifest, engine: Engine) -> str:
    count = len(engine.profiles)
    shapes = "1 profile" if count == 1 else f"{count} profiles"
    where = f"on {engine.compiled_on}" if engine.compiled_on else "without a GPU"
    return (
        f"{engine.path}: {amount(manifest.files[engine.path].bytes)}, {shapes}, {engine.library} {engine.version}, "
        f"compute capability {', '.join(engine.compute_capabilities)}, compiled {where}"
    )


@contextmanager
def _interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks the builder to stop at its next step: an exception could not pass through its native code."""
    asked = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        asked.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked.is_set
    except Cancelled:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
