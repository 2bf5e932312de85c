"""A report as one page that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from elit_edge.bench import plots, sheets
from elit_edge.bench.report import Report

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class _Figure:
    svg: object
    """Markup of our own, which the template does not escape."""
    alt: str
    caption: str
    legend: tuple[tuple[int, str], ...]


def page(report: Report) -> str:
    """The page as HTML. Every string of the report is escaped.

    Raises:
        RuntimeUnavailable: a package of the report extra is missing.
    """
    plots.require_plots()
    from jinja2 import Environment, StrictUndefined

    text = (resources.files("elit_edge.bench") / TEMPLATE).read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(text)
    run = report.sustained
    return template.render(
        title=f"{report.bundle}: what it costs here",
        headline=sheets.headline(report),
        warnings=sheets.warnings(report),
        glance=sheets.glance(report),
        latency=_figure(
            plots.latency(report), report, "One pass by budget",
            "Dots: medians. Whiskers: up to p90 (thick) and p99 (thin). Dashed: what the cost model predicted.",
        ),
        budgets=[sheets.budgets(each, report) for each in report.candidates],
        quality=_figure(
            plots.quality(report), report, "Quality against time",
            "Each point is the best plan for one deadline, by the bundle's quality table: low and left is good.",
        ),
        no_quality="This bundle has no measured quality table; elit-edge evaluate makes one.",
        fronts=[sheets.front(each) for each in report.candidates if each.front],
        sustained=run and _figure(
            plots.sustained(run, _place(report)), report, "Sustained run",
            "Solid: median of each bin. Dotted: p90. Thin: the hottest zone, where it can be read.",
            only=_place(report),
        ),
        sustained_facts=list(sheets.sustained_facts(run)) if run else [],
        bins=sheets.bins(run) if run else None,
        memory=_figure(plots.memory(report), report, "Peak memory", "The most that each process held, in MB."),
        lost=sheets.lost(report.lost) if report.lost else None,
        context=list(sheets.context(report)),
    )  # fmt: skip


def _place(report: Report) -> int:
    """Of the sustained run's candidate among all: its colour."""
    run = report.sustained
    titles = [each.title for each in report.candidates]
    title = "" if run is None else f"{run.runtime} {run.precision}"
    return titles.index(title) if title in titles else 0


def _figure(svg: str | None, report: Report, name: str, caption: str, only: int | None = None) -> _Figure | None:
    from markupsafe import Markup

    if svg is None:
        return None
    legend = tuple(
        (index % len(plots.SERIES) + 1, each.title)
        for index, each in enumerate(report.candidates)
        if only is None or index == only
    )
    alt = f"{name}: {', '.join(title for _, title in legend)}. The figures stand in the tables of this page."
    return _Figure(Markup(svg), alt, caption, legend)  # noqa: S704 - drawn from numbers alone
