"""`elit-edge compile --target coreml`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from elit_edge.bundle import Bundle
from elit_edge.cli.extras import require_export
from elit_edge.cli.reporting import say, stages
from elit_edge.errors import RequestError
from elit_edge.fit import amount
from elit_edge.manifest import CoreMlModel, Manifest


def compile_coreml(
    bundle: Path,
    precision: str | None,
    *,
    as_json: bool,
    layout: str = "ane",
    compression: str | None = None,
    ios: str = "18",
    budgets: str = "",
    license: str = "",  # noqa: A002  (the option's name)
) -> None:
    """Write packages into BUNDLE and say what they are."""
    require_export()
    from elit_edge.export.to_coreml.compiling import compile_packages
    from elit_edge.export.to_coreml.recipe import MULTIFUNCTION, Recipe

    recipe = Recipe(layout, precision or "fp16", compression, int(ios))  # type: ignore[arg-type]  # it checks them
    with stages() as report:
        report("digests", 0)
        files = Bundle.open(bundle).files
        manifest = compile_packages(files, recipe, budgets=_numbers(budgets), license=license, report=report)
    (made,) = (each for each in manifest.coreml if (each.layout, each.variant) == (recipe.layout, recipe.variant))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(made), indent=1).decode())
    say(_words(manifest, made))
    if recipe.ios < MULTIFUNCTION:
        say(f"iOS {recipe.ios} opens one function a package: each of these holds a copy of the weights")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise RequestError(f"--budgets {text!r}: give numbers with commas between, such as 1,4,16") from error


def _words(manifest: Manifest, model: CoreMlModel) -> str:
    packages = sorted({function.package for function in model.functions})
    size = sum(
        entry.bytes
        for name, entry in manifest.files.items()
        if any(name.startswith(f"{package}/") for package in packages)
    )
    found = model.parity
    room = "" if found.headroom is None else f", float16 head-room {found.headroom:g}x"
    return (
        f"{Path(packages[0]).parent}: {amount(size)}, {len(model.functions)} functions in {len(packages)} packages, "
        f"iOS {model.ios}, coremltools {model.version}; evaluated against PyTorch: worst {found.psnr_db:g} dB, "
        f"relative RMS {found.stored:.1e} as stored, {found.exact:.1e} exact, {found.graph:.1e} on its own weights"
        f"{room}"
    )
