"""Plots as SVG to stand inside a page: drawn by matplotlib, coloured by the page's own style."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from elit_edge.errors import RuntimeUnavailable

INCHES = (5.0, 3.4)
INK = "#010203"
"""Stands for the page's own colour of text."""
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
"""Stand for the page's colours of series."""
MARKERS = "osD^vP"
MANY = 100
"""Values so many times apart have labels at powers of ten alone."""


def require_packages(otherwise: str = "") -> None:
    """Check for the packages of the report extra.

    Args:
        otherwise: what can be done without them, to stand at the end of the error.

    Raises:
        RuntimeUnavailable: one is missing.
    """
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeUnavailable(
            f"a page needs {' and '.join(missing)}; pip install 'elit-edge[report]'{otherwise and ', or '}{otherwise}"
        )


def style(index: int) -> tuple[str, str]:
    """Colour and marker of a series."""
    return SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]


def legend_number(index: int) -> int:
    """What a legend calls the colour of a series: 1 .. 6."""
    return index % len(SERIES) + 1


def from_zero_or_log(axes: Any, values: Sequence[float]) -> None:
    """Values that are many times apart would hide each other on one linear scale."""
    if max(values) > 8 * min(values) > 0:
        axes.set_yscale("log")
        plain(axes.yaxis, values)
    else:
        axes.set_ylim(bottom=0)


def plain(axis: Any, values: Sequence[float]) -> None:
    """Labels of a logarithmic axis as plain numbers, few enough not to overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, subs=(1,) if max(values) > MANY * min(values) else (1, 2, 5), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


@contextmanager
def plot(
    name: str, x: str, y: str, height: float = INCHES[1], width: float = INCHES[0]
) -> Iterator[tuple[Any, list[str]]]:
    """Axes, and a list that holds the SVG when the block has ended.

    Args:
        name: its own within the page; starts the ids inside.
        x: label of the axis.
        y: label of the axis.
        height: inches.
        width: inches; the page stretches a plot to its column, and the text with it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {
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
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
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
