"""The plots of a report, as SVG to stand inside a page: drawn by matplotlib, coloured by the page's own style.

No name of the report gets into a plot: legends and captions are the page's, which escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elit_edge.bench.report import Candidate, Report, Sustained
from elit_edge.pages import drawing
from elit_edge.pages.drawing import INK

APART = 0.12
"""Latents by which the marks of two series are moved apart."""


def require_plots() -> None:
    """Check for the packages of the report extra.

    Raises:
        RuntimeUnavailable: one is missing.
    """
    drawing.require_packages(
        "measure with --json here and draw the page elsewhere: elit-edge bench page REPORT.json -o FILE.html"
    )


def latency(report: Report) -> str:
    """Median by budget with p90 and p99 as whiskers, and the prediction."""
    with drawing.plot("latency", "latents a group", "one pass, ms") as (axes, drawn):
        for index, candidate in enumerate(report.candidates):
            colour, marker = drawing.style(index)
            x = [row.latents + _shift(index, report.candidates) for row in candidate.rows]
            y = [row.times.median_ms for row in candidate.rows]
            for whisker, width in (("p90_ms", 2.4), ("p99_ms", 0.8)):
                ends = [getattr(row.times, whisker) for row in candidate.rows]
                known = [(a, b, c) for a, b, c in zip(x, y, ends, strict=True) if c is not None]
                axes.vlines(*(zip(*known, strict=True) if known else ([], [], [])), colors=colour, linewidth=width)
            axes.plot(x, y, marker, color=colour, markersize=4.5)
            axes.plot(x, [row.predicted_ms for row in candidate.rows], "--", color=colour, linewidth=1)
        _ladder(axes, report)
        drawing.from_zero_or_log(axes, [row.times.median_ms for each in report.candidates for row in each.rows])
    return drawn[0]


def quality(report: Report) -> str | None:
    """Best plans: expected distance against expected time. None without a quality table."""
    if not any(candidate.front for candidate in report.candidates):
        return None
    with drawing.plot("quality", "one picture, ms (expected)", "distance to the reference's") as (axes, drawn):
        for index, candidate in enumerate(report.candidates):
            colour, marker = drawing.style(index)
            points = candidate.front or ()
            times, distances = [each.expected_ms for each in points], [each.distance for each in points]
            axes.plot(times, distances, f"-{marker}", color=colour, markersize=4, linewidth=1.2)
        axes.set_xscale("log")
        drawing.plain(axes.xaxis, [point.expected_ms for each in report.candidates for point in each.front or ()])
        axes.set_ylim(bottom=0)
    return drawn[0]


def memory(report: Report) -> str | None:
    """Peak memory of each process. None where nothing is known."""
    known = [(index, each.peak_bytes) for index, each in enumerate(report.candidates) if each.peak_bytes is not None]
    if not known:
        return None
    with drawing.plot("memory", "peak memory of the process, MB", "", height=0.8 + 0.4 * len(known)) as (axes, drawn):
        for place, (index, peak) in enumerate(known):
            axes.barh(-place, peak / 1e6, color=drawing.style(index)[0], height=0.6)
            axes.annotate(f" {peak / 1e6:.0f}", (peak / 1e6, -place), va="center")
        axes.set_yticks([])
        axes.set_xlim(0, max(peak for _, peak in known) / 1e6 * 1.15)
        axes.grid(visible=False, axis="y")
    return drawn[0]


def sustained(run: Sustained, colour_index: int) -> str:
    """Median and p90 of each bin over time; temperature beneath where it is known."""
    heat = [(each.end_s, each.hottest_c) for each in run.bins if each.hottest_c is not None]
    with drawing.plot("sustained", "s since the start", "one pass, ms") as (axes, drawn):
        colour = drawing.style(colour_index)[0]
        middles = [(each.start_s + each.end_s) / 2 for each in run.bins]
        axes.plot(middles, [each.median_ms for each in run.bins], "-", color=colour, linewidth=1.6)
        tails = [(at, each.p90_ms) for at, each in zip(middles, run.bins, strict=True) if each.p90_ms is not None]
        if tails:
            axes.plot(*zip(*tails, strict=True), ":", color=colour, linewidth=1)
        axes.set_ylim(0, 1.08 * max(max(each.p90_ms or 0, each.median_ms) for each in run.bins))
        axes.set_xlim(0, run.bins[-1].end_s)
        if heat:
            other = axes.twinx()
            other.plot(*zip(*heat, strict=True), "-", color=INK, linewidth=0.8, alpha=0.6)
            other.set_ylabel("hottest zone, °C", color=INK)
            other.tick_params(colors=INK)
            other.spines[:].set_color(INK)
    return drawn[0]


def _shift(index: int, candidates: Sequence[Candidate]) -> float:
    return APART * (index - (len(candidates) - 1) / 2)


def _ladder(axes: Any, report: Report) -> None:
    latents = sorted({row.latents for each in report.candidates for row in each.rows})
    every = -(-len(latents) // 8)
    axes.set_xticks(latents[::-1][::every])
