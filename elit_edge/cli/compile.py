"""`elit-edge compile`: engines or packages for a target, put into the bundle that they are made of."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec

from elit_edge.bundle import Bundle
from elit_edge.cli.reporting import say, stages
from elit_edge.errors import Cancelled, RequestError
from elit_edge.fit import amount, check_disk, engine_bytes
from elit_edge.manifest import Engine, Manifest
from elit_edge.runtimes.tensorrt_.compiling import PRECISIONS, chosen_precision, compile_bundle
from elit_edge.runtimes.tensorrt_.library import LIBRARIES, Library
from elit_edge.runtimes.tensorrt_.profiles import Form

COREML = "coreml"
OWN = {
    "form": ("--profiles", (*LIBRARIES,)),
    "capabilities": ("--compute-capability", (*LIBRARIES,)),
    "timing_cache": ("--timing-cache", (*LIBRARIES,)),
    "layout": ("--layout", (COREML,)),
    "compression": ("--compress", (COREML,)),
    "ios": ("--ios", (COREML,)),
    "budgets": ("--budgets", (COREML,)),
    "license": ("--license", (COREML,)),
}
"""Options that not every target has."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice((*LIBRARIES, COREML)), required=True, help="What shall run it.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="The first of these that BUNDLE has; fp16 for coreml.")
@click.option(
    "--profiles",
    "form",
    type=click.Choice(("range", "per-budget")),
    help="One profile for all budgets (range), or one tuned for each (TensorRT).",
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
@click.option(
    "--layout", type=click.Choice(("ane", "gpu")), help="For the Neural Engine (ane), or for GPU and CPU (coreml)."
)
@click.option(
    "--compress",
    "compression",
    type=click.Choice(("int8", "int4", "lut6", "lut4", "w8a8")),
    help="Store weights so; w8a8 computes products in eight bits (coreml).",
)
@click.option("--ios", type=click.Choice(("16", "17", "18", "26")), help="The least iOS that opens it; 18 (coreml).")
@click.option("--budgets", metavar="1,4,16", help="Latents a group; the ladder if not given (coreml).")
@click.option("--license", help="Of the weights, for the packages' metadata (coreml).")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def command(bundle: Path, target: str, precision: str | None, as_json: bool, **own: Any) -> None:
    """Compile BUNDLE for a device, and keep the result in BUNDLE.

    tensorrt compiles engines for the GPU of this machine; tensorrt-rtx for any of Ampere or later, without one; coreml
    writes packages for iPhone, iPad and Mac, on any machine.
    """
    given = {name: value for name, value in own.items() if value not in (None, ())}
    for name in given:
        option, targets = OWN[name]
        if target not in targets:
            raise RequestError(f"{option} is of --target {' and '.join(targets)}; {target} has no such setting")
    if target == COREML:
        from elit_edge.cli.compile_coreml import compile_coreml

        compile_coreml(bundle, precision, as_json=as_json, **given)
    else:
        _compile_engines(bundle, LIBRARIES[target], precision, as_json=as_json, **given)


def _compile_engines(
    bundle: Path,
    library: Library,
    precision: str | None,
    *,
    as_json: bool,
    form: Form = "range",
    capabilities: tuple[str, ...] = (),
    timing_cache: Path | None = None,
) -> None:
    with stages() as report, _interrupt() as cancelled:
        report("digests", 0)
        files = Bundle.open(bundle).files
        chosen = chosen_precision(files.manifest, precision)
        check_disk(bundle.absolute().parent, engine_bytes(files.manifest, chosen), f"compiling {files.manifest.name}")
        manifest = compile_bundle(
            files,
            library,
            chosen,
            form=form,
            compute_capabilities=capabilities,
            timing_cache=timing_cache,
            report=report,
            cancelled=cancelled,
        )
    made = [each for each in manifest.engines if (each.library, each.precision) == (library.name, chosen)]
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
