"""A calibration as one page that needs nothing else: the verdict, pictures side by side, layers, ranges."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from elit_edge.calibration.proof import gates
from elit_edge.calibration.record import Record, Treatment
from elit_edge.calibration.report import plots, tables
from elit_edge.calibration.report.ranking import Movement, by_harm, movement
from elit_edge.decoding import LatentDecoder
from elit_edge.generation import Images, generate
from elit_edge.manifest import Manifest
from elit_edge.pages import drawing
from elit_edge.pages.filling import Figure, figure, fill
from elit_edge.pictures import grid
from elit_edge.runtimes.contract import Session
from elit_edge.verdict import Calibration, Verdict

TEMPLATE = "calibration/report/page.html.j2"
IN_TABLES = "The figures stand in the tables of this page."
MOVING = 3
"""Layers whose ranges are drawn, for each of budget and time."""


@dataclass(frozen=True)
class Sheet:
    """Pictures of both precisions from the same seeds."""

    labels: tuple[str, ...]
    latents: tuple[int, ...]
    float32: Images
    """[budgets, classes, S, S, 3] uint8."""
    quantized: Images
    """The same."""


def draw_sheet(
    float32: Session,
    quantized: Session,
    latents: Sequence[int],
    seed: int,
    decoder: LatentDecoder | None = None,
    classes: int = 6,
) -> Sheet | None:
    """Pictures of some classes at some budgets, by the bundle's sampler defaults. None of latents without a decoder.

    Args:
        float32: a session of the bundle in float32.
        quantized: one of the same model in the precision.
        latents: the budgets, 1..P.
        seed: of both.
        decoder: of a model of latents; the same for both.
        classes: at most so many, evenly chosen.

    Raises:
        PictureError: a picture is not finite, or flat.
    """
    model = float32.manifest.model
    if float32.manifest.sample_space != "pixels" and decoder is None:
        return None
    chosen = np.linspace(0, model.num_classes - 1, min(classes, model.num_classes)).round().astype(int).tolist()
    drawn = []
    for session in (float32, quantized):
        rows = [generate(session, chosen, latents=each, seed=seed, decoder=decoder).images for each in latents]
        drawn.append(np.stack([images for images in rows if images is not None]))
    names = model.class_names or tuple(f"class {number}" for number in range(model.num_classes))
    return Sheet(tuple(names[number] for number in chosen), tuple(latents), *drawn)


def page(manifest: Manifest, calibration: Calibration, record: Record, sheet: Sheet | None) -> str:
    """The page as HTML. Every string of the bundle and the record is escaped.

    Args:
        manifest: of the bundle.
        calibration: the manifest's entry for the precision.
        record: what that entry names.
        sheet: of `draw_sheet`; None leaves the pictures out.

    Raises:
        RuntimeUnavailable: a package of the report extra is missing.
    """
    drawing.require_packages("calibrate without --report")
    verdict = calibration.verdict
    full = manifest.latents_per_group
    moved = sorted(filter(None, map(movement, record.layers)), key=lambda each: -each.most)
    return fill(
        TEMPLATE,
        title=f"{manifest.name}: {calibration.precision} against float32",
        accepted=verdict.accepted,
        headline=tables.headline(verdict, full),
        warnings=[*(f"Refused: {fault}." for fault in verdict.faults), *map(_sentence, gates.caveats(verdict))],
        glance=tables.glance(verdict, record, full),
        changes=list(_changes(verdict)),
        budgets=tables.budgets(verdict),
        speeds=tables.speeds(verdict, calibration.precision) if verdict.speeds else None,
        pictures=_pictures(sheet, calibration) if sheet else None,
        no_pictures="This model makes latents, and the bundle holds no decoder: there are no pictures to show."
        if manifest.sample_space == "latents" and not manifest.decoders
        else "No pictures were drawn for this page.",
        sensitivity=_sensitivity(record, verdict),
        movements=tables.movements(moved) if moved else None,
        moving=_moving(record, moved),
        drawn_budgets=list(enumerate(map(tables.latents, _drawn_budgets(record)), 1)),
        wide=tables.wide(record.headroom) if record.headroom else None,
        headroom=tables.headroom(record.headroom) if record.headroom else None,
        layers=tables.layers(record),
        context=list(tables.context(manifest, calibration, record)),
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _changes(verdict: Verdict) -> Iterator[Figure]:
    """PSNR, Frechet distance and loss by budget."""
    yield figure(
        plots.psnr(verdict),
        f"PSNR to float32 by budget. {IN_TABLES}",
        "PSNR of the velocity, worst state. Dashed: the gate.",
    )
    frechet = {each.latents: each.frechet for each in verdict.budgets if each.frechet is not None}
    if frechet:
        drawn = plots.change("frechet", "Frechet distance, %", frechet, scale=100, margin=gates.MARGIN)
        yield figure(
            drawn,
            f"Change of the Frechet distance by budget. {IN_TABLES}",
            f"Change of the Frechet distance. Whiskers: 95% intervals. Dashed: the margin, {gates.MARGIN:+.0%}.",
        )
    loss = {each.latents: each.loss for each in verdict.budgets if each.loss is not None}
    if loss:
        yield figure(
            plots.change("loss", "loss, %", loss, scale=100, margin=None if frechet else gates.MARGIN),
            f"Change of the distance to the reference's pictures by budget. {IN_TABLES}",
            "Loss: change of the distance to the reference's pictures. Whiskers: 95% intervals.",
        )


def _pictures(sheet: Sheet, calibration: Calibration) -> dict[str, object]:
    """What the template lays out: classes as columns, two rows a budget."""
    psnr_db = {each.latents: each.psnr_db for each in calibration.verdict.budgets}
    blocks = []
    for place, latents in enumerate(sheet.latents):
        words = tables.latents(latents)
        rows = []
        for name, images in (("float32", sheet.float32), (calibration.precision, sheet.quantized)):
            cells = [
                (_source(image), f"{label} at {words}, {name}")
                for label, image in zip(sheet.labels, images[place], strict=True)
            ]
            rows.append((name, cells))
        known = f", PSNR of the velocity {tables.decibels(psnr_db[latents], unit=True)}" if latents in psnr_db else ""
        blocks.append((f"{words} a group{known}", rows))
    return {"labels": sheet.labels, "blocks": blocks}


def _source(image: Images) -> str:
    """One picture [S, S, 3] as a data URI."""
    file = io.BytesIO()
    grid(image[None]).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _sensitivity(record: Record, verdict: Verdict) -> list[Figure]:
    """Bars by layer and dots by kind; empty where no layer was tried alone."""
    ranked = by_harm(record.layers)
    if not ranked:
        return []
    treatments = sorted({layer.treatment for layer, _ in ranked}, key=get_args(Treatment).index)
    colours: dict[str, int] = {treatment: index for index, treatment in enumerate(treatments)}
    legend = [(drawing.legend_number(index), treatment) for treatment, index in colours.items()]
    which = f"The {plots.BARS} most harmful of {len(ranked)} layers" if len(ranked) > plots.BARS else "All layers"
    return [
        figure(
            plots.sensitivity(ranked, verdict.gate_db, colours),
            f"PSNR with each layer alone quantized. {IN_TABLES}",
            f"{which}: the longer the bar, the more harm at the worst budget. Notch: at the mildest budget. "
            "Dashed: the gate. Colour: what the layer became.",
            legend,
        ),
        figure(
            plots.kinds(ranked, verdict.gate_db, colours),
            f"The same by kind of layer. {IN_TABLES}",
            "The same by kind of layer: a dot a layer, at its worst budget.",
            legend,
        ),
    ]


def _moving(record: Record, moved: Sequence[Movement]) -> list[tuple[str, list[Figure]]]:
    """Some layers that move most with the budget, and others that move most with the time."""
    layers = {layer.name: layer for layer in record.layers}
    with_budget = sorted((each for each in moved if each.by_budget), key=lambda each: -(each.by_budget or 0))[:MOVING]
    others = [each for each in moved if each.by_time and each not in with_budget]
    with_time = sorted(others, key=lambda each: -(each.by_time or 0))[:MOVING]
    blocks = []
    for axis, chosen in (("budget", with_budget), ("time", with_time)):
        drawn = [
            figure(
                plots.ranges(f"ranges-{axis}-{place}", layers[each.layer], _drawn_budgets(record)),
                f"Range of {each.layer} by time and budget. The ratios stand in the table of this page.",
                f"{each.layer}: {tables.times(each.by_budget)} by budget, {tables.times(each.by_time)} by time",
            )
            for place, each in enumerate(chosen)
        ]
        if drawn:
            blocks.append((f"Moving most with the {axis}", drawn))
    return blocks


def _drawn_budgets(record: Record) -> list[int]:
    """At most as many as there are colours, evenly chosen."""
    found = sorted({each.latents for layer in record.layers for each in layer.ranges})
    count = min(len(found), len(drawing.SERIES))
    return [found[place] for place in np.linspace(0, len(found) - 1, count).round().astype(int)]
