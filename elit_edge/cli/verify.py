"""`elit-edge verify`: is this bundle what it says it is?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import msgspec

from elit_edge.bundle import Bundle
from elit_edge.cli.reporting import say, stages
from elit_edge.errors import CheckpointError, RequestError


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Hold the graphs against this checkpoint.")
@click.option("--config", type=click.Path(path_type=Path), help="JSON with what the checkpoint does not say.")
@click.option(
    "--vae", "vaes", multiple=True, type=click.Path(path_type=Path), help="Hold the decoder that was made of it to it."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(bundle: Path, checkpoint: Path | None, config: Path | None, vaes: tuple[Path, ...], as_json: bool) -> None:
    """Check every byte of BUNDLE against its digest, and every graph against PyTorch on real trajectories.

    Without --checkpoint the torch model takes the bundle's own weights. A decoder is held to PyTorch with --vae.
    """
    from elit_edge.cli.extras import require_export

    require_export()
    if config is not None and checkpoint is None:
        raise RequestError("--config says what a checkpoint does not: it goes with --checkpoint")
    from elit_edge.cli.sources import read_source
    from elit_edge.export.vae.source import read_vae
    from elit_edge.export.verify import reference_cases, verify
    from elit_edge.export.verify_coreml import verify_coreml
    from elit_edge.export.verify_decoders import decoder_of, verify_decoders
    from elit_edge.export.verify_engines import verify_engines
    from elit_edge.model.bundle_weights import model_of_bundle
    from elit_edge.model.transformer import DiffusionTransformer

    with stages() as report:
        report("digests", 0)
        files = Bundle.open(bundle).files
        if checkpoint is None:
            model: Callable[[], DiffusionTransformer] = partial(model_of_bundle, files, files.manifest.precisions[0])
        else:
            source = read_source(checkpoint, config)
            if source.config.unnamed != files.manifest.model.unnamed:
                raise CheckpointError(
                    f"{checkpoint} is another model than that of {bundle}; give the one it was made from"
                )
            model = source.model
        pairs = [(decoder_of(files, vae), vae) for vae in map(read_vae, vaes)]
        cases = reference_cases(model(), files.manifest, report=lambda share: report("reference", share))
        found = verify(files, cases, lambda share: report("parity", share))
        decoders = verify_decoders(files, pairs, cases[-1].samples, lambda share: report("decoder", share))
        engines = verify_engines(files, cases, lambda share: report("engines", share))
        packages = verify_coreml(files, model, lambda share: report("core ml", share))
    for decoder, psnr_db in decoders:
        say(f"{decoder.kind} decoder ({decoder.layout}, {decoder.precision}): worst {psnr_db:.1f} dB")
    for each in engines:
        state = f"not run: {each.reason}" if each.psnr_db is None else f"worst {each.psnr_db:.1f} dB"
        say(f"engines {each.library} {each.precision}: {state}")
    for package in packages:
        state = "not evaluated: coremltools is not installed; pip install 'elit-edge[coreml]'"
        if package.found is not None:
            state = (
                f"worst {package.found.psnr_db:.1f} dB, relative RMS {package.found.stored:.1e} as stored (evaluated)"
            )
        say(f"core ml {package.model.layout} {package.model.variant}: {state}")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
        return
    worst = found.worst
    say(
        f"{bundle}: digests hold; {found.cases} checks of {len(files.manifest.graphs)} graphs hold the gate of "
        f"{found.gate_db:g} dB; worst {worst.psnr_db:g} dB ({worst.graph}, {worst.latents} latents, t = {worst.t:g})"
    )
