"""`elit-edge generate`: pictures from a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from elit_edge.bundle import Bundle
from elit_edge.cli.choosing import Chooser, Clock, explain_plans, say_deadline
from elit_edge.cli.decoding import Decoding
from elit_edge.cli.quantities import Duration, Numbers, Size
from elit_edge.cli.reporting import say, stages
from elit_edge.device.pressure import sustainable_share
from elit_edge.errors import RequestError
from elit_edge.files import refuse_existing
from elit_edge.fit import check_memory, resident_bytes, run_memory_bytes
from elit_edge.generation import Generation, generate
from elit_edge.manifest import Manifest
from elit_edge.pictures import grid, save_png, save_samples, settings_of
from elit_edge.sampling import GuidanceKind, Solver

WRITING_S, WRITING_S_PER_PIXEL = 0.02, 4e-7
"""Held back from a deadline for the file: a grid of the sample took 2 to 6 ms, PNG some 0.2 microseconds a pixel."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--label", "labels", multiple=True, required=True, help="A class by name, synonym or number; may be repeated."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .png grid, or .npy samples.")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="Pictures of each label.")
@click.option("--steps", type=int, help="Solver steps.")
@click.option("--latents", type=Numbers(), help="Latents kept a group, 1..P: one budget, or one for each step.")
@click.option("--solver", type=click.Choice(get_args(Solver)), help="How to integrate.")
@click.option("--guidance", type=click.Choice(get_args(GuidanceKind)), help="Which weak pass to guide away from.")
@click.option("--scale", type=float, help="Guidance scale; 1 is none.")
@click.option("--weak-latents", type=int, help="Budget of the weak pass of ccfg and autoguidance.")
@click.option("--interval", type=(float, float), default=(0.0, 1.0), help="Times LOW HIGH between which to guide.")
@click.option("--deadline", type=Duration(), help="Best pictures within this time: 2s, 800ms. From start to file.")
@click.option("--memory", "memory_bytes", type=Size(), help="Plan for at most so much memory: 500MB, 2GB.")
@click.option("--energy", "joules", type=click.FloatRange(0, min_open=True), help="Plan for at most so many joules.")
@click.option("--explain", is_flag=True, help="Say what was chosen from, and why the others lost.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed, the same picture, everywhere.")
@click.option("--runtime", default="auto", show_default=True, help="What computes.")
@click.option("--precision", help="Which graphs of the bundle to run.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--decoder", type=click.Choice(["full", "fast"]), help="What makes pictures of latents.  [default: full]")
@click.option("--decoder-runtime", default="auto", show_default=True, help="What computes the decoder.")
@click.option("--tiles/--no-tiles", default=None, help="Decode in tiles.  [default: where memory is short]")
@click.option("--force", is_flag=True, help="Replace an output that stands there.")
def command(
    bundle: Path,
    labels: tuple[str, ...],
    output: Path,
    count: int,
    runtime: str,
    precision: str | None,
    threads: int | None,
    force: bool,
    deadline: float | None,
    memory_bytes: int | None,
    joules: float | None,
    explain: bool,
    decoder: str | None,
    decoder_runtime: str,
    tiles: bool | None,
    **settings: Any,
) -> None:
    """Make pictures from BUNDLE. What is not given comes from the bundle's own sampler defaults.

    With --deadline, --memory or --energy the runtime, steps, budgets and guidance are chosen for the best pictures
    within that bound. The first time on a device its runtimes are measured, which the deadline does not count.
    """
    clock = Clock()
    refuse_existing(output, replace=force)
    opened = Bundle.open(bundle)
    decodes = _decodes(output, opened.manifest, decoder)
    if settings["latents"] is not None and len(settings["latents"]) == 1:
        (settings["latents"],) = settings["latents"]
    wanted = [opened.manifest.label(label) for label in labels for _ in range(count)]
    check_memory(
        run_memory_bytes(opened.manifest, len(wanted), runtime) - resident_bytes(),
        f"{len(wanted)} pictures at once",
        "ask for fewer with --count, and make the rest with other seeds",
    )
    decoding = Decoding(opened, decoder, decoder_runtime, threads, tiles, memory_bytes) if decodes else None
    if deadline is memory_bytes is joules is None:
        session = opened.prepare(runtime, precision, threads, report=say)
    else:
        chooser = Chooser(opened, wanted, runtime, precision, threads, clock)
        side = opened.manifest.model.image_size
        finish_s = 0.0 if deadline is None else _finish_s(decoding, side, len(wanted), clock)
        plan = chooser.plan(deadline, finish_s, memory_bytes, joules, settings["guidance"])
        if explain:
            explain_plans(chooser)
        session = chooser.open(plan)
        settings["pressure"] = sustainable_share
        bounds = [] if deadline is None else [max(chooser.left_s(deadline, finish_s), 1e-3)]
        if memory_bytes is not None or joules is not None:
            say(f"plan: {plan.words()}")
            settings |= {"plan": plan, "guidance": None}
            bounds += [] if plan.bound_ms is None else [plan.bound_ms / 1e3]
        # a deadline alone is planned for once more, now that the runtime is open and its speed can be checked
        settings["deadline"] = min(bounds, default=None)
    if explain:
        for words in session.passed_over:
            say(f"not {words}")
    with stages() as report:
        with session:  # closed before the decoder opens: the memory of one of them at a time
            made = generate(
                session, wanted, progress=lambda state: report("generate", state.step / state.steps), **settings
            )
        if decoding is not None:
            report("decode", 0.0)
            made = decoding.pictures(made)
    if output.suffix == ".npy" or made.images is None:
        save_samples(made.samples, output, replace=force)
    else:
        save_png(grid(made.images), output, settings_of(made, opened.manifest), replace=force)
    _say_what_was_made(made, output, session.runtime, decoding)
    if made.deadline is not None:
        say_deadline(made.deadline, deadline, clock)


def _finish_s(decoding: Decoding | None, side: int, count: int, clock: Clock) -> float:
    """Time held back for making pictures of samples, and a file on disk of those."""
    decoding_s = 0.0
    if decoding is not None:
        decoding_s, side = decoding.expected_s(count, clock), decoding.image_side
    return decoding_s + WRITING_S + WRITING_S_PER_PIXEL * side * side * count


def _say_what_was_made(made: Generation, output: Path, runtime: str, decoding: Decoding | None) -> None:
    total = made.condition_ms + sum(made.step_ms)
    guidance = f"{made.guidance.kind} {made.guidance.scale:g}"
    how = f"{len(made.latents)} steps {made.solver}, {_span(made.latents)} latents, {guidance}"
    after = ""
    if decoding is not None:
        after = f"; decoded {'in tiles' if made.tiles else 'whole'}, {made.decode_ms:.0f} ms on {decoding.runtime}"
    say(f"{output}: {len(made.labels)} pictures, {how}, {total:.0f} ms on {runtime}{after}")


def _decodes(output: Path, manifest: Manifest, decoder: str | None) -> bool:
    """Whether samples have to be decoded for this output.

    Raises:
        RequestError, BundleError: the bundle cannot make such a file.
    """
    pixels = manifest.sample_space == "pixels"
    allowed = (".png", ".npy") if pixels or manifest.decoders else (".npy",)
    if output.suffix not in allowed:
        without = ": its samples are latents, and the bundle has no decoder; export it again with --vae DIR"
        why = "" if ".png" in allowed else without
        raise RequestError(f"-o {output}: this bundle writes {' or '.join(allowed)}{why}")
    if decoder is not None and (pixels or output.suffix == ".npy"):
        what = "this bundle makes pixels" if pixels else f"-o {output} holds latents"
        raise RequestError(
            f"--decoder {decoder}: {what}, which are not decoded; leave it out, or write a .png of latents"
        )
    return not pixels and output.suffix == ".png"


def _span(latents: tuple[int, ...]) -> str:
    return str(latents[0]) if len(set(latents)) == 1 else f"{min(latents)} to {max(latents)}"
