"""The plots of a calibration.

Names of layers are the record's, and stand in two of them: matplotlib escapes text, `label` makes it short and plain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from elit_edge.calibration.record import Layer, Sensitivity
from elit_edge.calibration.report.ranking import kind, magnitude
from elit_edge.pages import drawing
from elit_edge.pages.drawing import INK
from elit_edge.parity import EXACT_DB
from elit_edge.verdict import Interval, Verdict

PANEL = (2.5, 3.6)
"""Height and width of plots that stand three beside each other, inches."""
BARS = 30
"""Most bars in one plot."""
BAR_INCHES = 0.25
LABEL_CHARACTERS = 26
STEP_DB = 10.0
"""Bars begin at a multiple of it."""


def psnr(verdict: Verdict) -> str:
    """PSNR by budget, and the gate."""
    with drawing.plot("psnr", "latents a group", "PSNR to float32, dB", *PANEL) as (axes, drawn):
        budgets = sorted(verdict.budgets, key=lambda each: each.latents)
        known = [(place, each.psnr_db) for place, each in enumerate(budgets) if abs(each.psnr_db) < EXACT_DB]
        axes.plot([place for place, _ in known], [found for _, found in known], "-o", color=drawing.style(0)[0])
        axes.axhline(verdict.gate_db, color=INK, linestyle="--", linewidth=1)
        _ladder(axes, [each.latents for each in budgets])
        _room(axes, [verdict.gate_db, *(found for _, found in known)])
    return drawn[0]


def change(name: str, y: str, found: Mapping[int, Interval], *, scale: float = 1.0, margin: float | None = None) -> str:
    """Estimates with their intervals by budget, none at 0, the margin dashed.

    Args:
        name: the plot's own.
        y: label.
        found: by latents.
        scale: of what is drawn to what was found; 100 for percent.
        margin: most that is allowed, as found.
    """
    with drawing.plot(name, "latents a group", y, *PANEL) as (axes, drawn):
        colour = drawing.style(0)[0]
        budgets = sorted(found)
        for place, latents in enumerate(budgets):
            axes.vlines(place, scale * found[latents].low, scale * found[latents].high, colors=colour, linewidth=2.4)
        axes.plot(range(len(budgets)), [scale * found[latents].value for latents in budgets], "o", color=colour)
        axes.axhline(0, color=INK, linewidth=1)
        ends = [0.0, *(scale * end for each in found.values() for end in (each.low, each.high))]
        if margin is not None:
            axes.axhline(scale * margin, color=INK, linestyle="--", linewidth=1)
            ends.append(scale * margin)
        _ladder(axes, budgets)
        _room(axes, ends)
    return drawn[0]


def sensitivity(ranked: Sequence[tuple[Layer, Sensitivity]], gate_db: float, colours: Mapping[str, int]) -> str:
    """A bar a layer, the longer the more harmful; a notch at its least harmful budget.

    Args:
        ranked: of `by_harm`; the first BARS are drawn.
        gate_db: drawn as a dashed line.
        colours: treatment -> number of its series.
    """
    shown = ranked[:BARS]
    start, end = _ends_db(shown, gate_db)
    with _harm("sensitivity", [layer.name for layer, _ in shown], gate_db) as (axes, drawn):
        for place, (layer, found) in enumerate(shown):
            colour = drawing.style(colours[layer.treatment])[0]
            axes.barh(-place, _within(found.psnr_db, start, end) - start, left=start, color=colour, height=0.72)
            mildest = max(each.psnr_db for each in layer.sensitivity)
            notch = _within(mildest, start, end)
            axes.vlines(notch, -place - 0.36, -place + 0.36, colors=INK, linewidth=1.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(start, end)
    return drawn[0]


def kinds(ranked: Sequence[tuple[Layer, Sensitivity]], gate_db: float, colours: Mapping[str, int]) -> str:
    """A row a kind of layer, a dot a layer; the kind with the most harmful layer first."""
    rows: dict[str, list[tuple[Layer, Sensitivity]]] = {}
    for layer, found in ranked:
        rows.setdefault(kind(layer.name), []).append((layer, found))
    shown = list(rows.items())[:BARS]
    start, end = _ends_db(ranked, gate_db)
    with _harm("kinds", [name for name, _ in shown], gate_db) as (axes, drawn):
        for place, (_, members) in enumerate(shown):
            for layer, found in members:
                colour, marker = drawing.style(colours[layer.treatment])
                axes.plot(_within(found.psnr_db, start, end), -place, marker, color=colour, markersize=6, alpha=0.7)
        axes.set_xlim(start + 1, end)
    return drawn[0]


def ranges(name: str, layer: Layer, budgets: Sequence[int]) -> str:
    """The greatest magnitude by time, a line a budget.

    Args:
        name: the plot's own.
        layer: with ranges.
        budgets: those that are drawn, in the order of their colours.
    """
    with drawing.plot(name, "t, from noise (1) to picture (0)", "greatest |x|", *PANEL) as (axes, drawn):
        for index, latents in enumerate(budgets):
            colour, marker = drawing.style(index)
            known: dict[float, float] = {}
            for each in layer.ranges:
                if each.latents == latents:
                    known[each.t] = max(known.get(each.t, 0.0), magnitude(each))
            line = sorted(known.items())
            axes.plot([t for t, _ in line], [size for _, size in line], f"-{marker}", color=colour, markersize=4)
        axes.invert_xaxis()
        drawing.from_zero_or_log(axes, [magnitude(each) for each in layer.ranges])
    return drawn[0]


def label(name: str) -> str:
    """A name that any font can draw, cut at its start: its end tells the kind."""
    plain = "".join(each if each.isascii() and each.isprintable() else "?" for each in name)
    return plain if len(plain) <= LABEL_CHARACTERS else "..." + plain[3 - LABEL_CHARACTERS :]


def _ends_db(ranked: Sequence[tuple[Layer, Sensitivity]], gate_db: float) -> tuple[float, float]:
    """From the mildest to the worst that is neither exact nor broken."""
    known = [each.psnr_db for layer, _ in ranked for each in layer.sensitivity if abs(each.psnr_db) < EXACT_DB]
    return STEP_DB * math.floor(max([gate_db, *known]) / STEP_DB + 1), min([gate_db, *known]) - 2


def _within(found_db: float, start_db: float, end_db: float) -> float:
    return max(min(found_db, start_db), end_db)


def _ladder(axes: Any, latents: Sequence[int]) -> None:
    """Budgets evenly spaced: they double more often than not."""
    axes.set_xticks(range(len(latents)), [str(each) for each in latents])
    axes.set_xlim(-0.4, len(latents) - 0.6)


def _room(axes: Any, values: Sequence[float]) -> None:
    """A tenth of the spread above and below, so that no line lies on the frame."""
    air = 0.1 * (max(values) - min(values)) or 1.0
    axes.set_ylim(min(values) - air, max(values) + air)


@contextmanager
def _harm(name: str, labels: Sequence[str], gate_db: float) -> Iterator[tuple[Any, list[str]]]:
    """Rows under each other against PSNR, which falls to the right; the gate dashed."""
    height = 0.7 + BAR_INCHES * len(labels)
    with drawing.plot(name, "PSNR with it alone quantized, dB", "", height=height) as (axes, drawn):
        axes.axvline(gate_db, color=INK, linestyle="--", linewidth=1)
        axes.set_yticks([-place for place in range(len(labels))], [label(each) for each in labels])
        axes.tick_params(axis="y", length=0, labelsize=10)
        axes.set_ylim(0.6 - len(labels), 0.6)
        yield axes, drawn
