"""The plots of a report, as SVG to stand inside a page: drawn by matplotlib, coloured by the page's own style.

No name of the report gets into a plot: legends and captions are the page's, which escapes them.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from elit_edge.bench.report import Candidate, Report, Sustained
from elit_edge.errors import RuntimeUnavailable

INCHES = (5.0, 3.4)
INK = "#010203"
"""Stands for the page's own colour of text."""
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
"""Stand for the page's colours of series."""
MARKERS = "osD^vP"
APART = 0.12
"""Latents by which the marks of two series are moved apart."""
MANY = 100
"""Values so many times apart have labels at powers of ten alone."""


def require_plots() -> None:
    """Check for the packages of the report extra.

    Raises:
        RuntimeUnavailable: one is missing.
    """
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeUnavailable(
            f"a page needs {' and '.join(missing)}; pip install 'elit-edge[report]', or measure with --json here and "
            "draw the page elsewhere: elit-edge bench page REPORT.json -o FILE.html"
        )


def latency(report: Report) -> str:
    """Median by budget with p90 and p99 as whiskers, and the prediction."""
    with _plot("latency", "latents a group", "one pass, ms") as (axes, drawn):
        for index, candidate in enumerate(report.candidates):
            colour, marker = _style(index)
            x = [row.latents + _shift(index, report.candidates) for row in candidate.rows]
            y = [row.times.median_ms for row in candidate.rows]
            for whisker, width in (("p90_ms", 2.4), ("p99_ms", 0.8)):
                ends = [getattr(row.times, whisker) for row in candidate.rows]
                known = [(a, b, c) for a, b, c in zip(x, y, ends, strict=True) if c is not None]
                axes.vlines(*(zip(*known, strict=True) if known else ([], [], [])), colors=colour, linewidth=width)
            axes.plot(x, y, marker, color=colour, markersize=4.5)
            axes.plot(x, [row.predicted_ms for row in candidate.rows], "--", color=colour, linewidth=1)
        _ladder(axes, report)
        _times_from_zero_or_log(axes, [row.times.median_ms for each in report.candidates for row in each.rows])
    return drawn[0]


def quality(report: Report) -> str | None:
    """Best plans: expected distance against expected time. None without a quality table."""
    if not any(candidate.front for candidate in report.candidates):
        return None
    with _plot("quality", "one picture, ms (expected)", "distance to the reference's") as (axes, drawn):
        for index, candidate in enumerate(report.candidates):
            colour, marker = _style(index)
            points = candidate.front or ()
            times, distances = [each.expected_ms for each in points], [each.distance for each in points]
            axes.plot(times, distances, f"-{marker}", color=colour, markersize=4, linewidth=1.2)
        axes.set_xscale("log")
        _plain(axes.xaxis, [point.expected_ms for each in report.candidates for point in each.front or ()])
        axes.set_ylim(bottom=0)
    return drawn[0]


def memory(report: Report) -> str | None:
    """Peak memory of each process. None where nothing is known."""
    known = [(index, each.peak_bytes) for index, each in enumerate(report.candidates) if each.peak_bytes is not None]
    if not known:
        return None
    with _plot("memory", "peak memory of the process, MB", "", height=0.8 + 0.4 * len(known)) as (axes, drawn):
        for place, (index, peak) in enumerate(known):
            axes.barh(-place, peak / 1e6, color=_style(index)[0], height=0.6)
            axes.annotate(f" {peak / 1e6:.0f}", (peak / 1e6, -place), va="center")
        axes.set_yticks([])
        axes.set_xlim(0, max(peak for _, peak in known) / 1e6 * 1.15)
        axes.grid(visible=False, axis="y")
    return drawn[0]


def sustained(run: Sustained, colour_index: int) -> str:
    """Median and p90 of each bin over time; temperature beneath where it is known."""
    heat = [(each.end_s, each.hottest_c) for each in run.bins if each.hottest_c is not None]
    with _plot("sustained", "s since the start", "one pass, ms") as (axes, drawn):
        colour = _style(colour_index)[0]
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


def _style(index: int) -> tuple[str, str]:
    return SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]


def _shift(index: int, candidates: Sequence[Candidate]) -> float:
    return APART * (index - (len(candidates) - 1) / 2)


def _ladder(axes: Any, report: Report) -> None:
    latents = sorted({row.latents for each in report.candidates for row in each.rows})
    every = -(-len(latents) // 8)
    axes.set_xticks(latents[::-1][::every])


def _times_from_zero_or_log(axes: Any, medians: list[float]) -> None:
    """Candidates that are many times apart would hide each other on one linear scale."""
    if max(medians) > 8 * min(medians):
        axes.set_yscale("log")
        _plain(axes.yaxis, medians)
    else:
        axes.set_ylim(bottom=0)


def _plain(axis: Any, values: list[float]) -> None:
    """Times on a logarithmic axis as plain numbers, few enough not to overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, subs=(1,) if max(values) > MANY * min(values) else (1, 2, 5), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


@contextmanager
def _plot(name: str, x: str, y: str, height: float = INCHES[1]) -> Iterator[tuple[Any, list[str]]]:
    """Axes, and a list that holds the SVG when the block has ended."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "font.size": 11.5,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": INK,
        "grid.alpha": 0.15,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    drawn: list[str] = []
    with mpl.rc_context(style):
        figure = Figure(figsize=(INCHES[0], height), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        yield axes, drawn
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn.append(_inside_page(file.getvalue(), name))


def _inside_page(svg: str, name: str) -> str:
    """The element alone, its ids its own, its colours the page's, its size the column's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = svg.replace(INK, "currentColor")
    for number, colour in enumerate(SERIES, 1):
        svg = svg.replace(colour, f"var(--series-{number})")
    return svg.replace("<svg", '<svg aria-hidden="true"', 1)
