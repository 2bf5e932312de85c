"""A report as one page that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from elit_edge.bench import plots, sheets
from elit_edge.bench.report import Report
from elit_edge.pages import drawing
from elit_edge.pages.filling import Figure, figure, fill

TEMPLATE = "bench/page.html.j2"


def page(report: Report) -> str:
    """The page as HTML. Every string of the report is escaped.

    Raises:
        RuntimeUnavailable: a package of the report extra is missing.
    """
    plots.require_plots()
    run = report.sustained
    return fill(
        TEMPLATE,
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
        placements=[sheets.placement(each) for each in report.candidates if each.placement],
        lost=sheets.lost(report.lost) if report.lost else None,
        context=list(sheets.context(report)),
    )  # fmt: skip


def _place(report: Report) -> int:
    """Of the sustained run's candidate among all: its colour."""
    run = report.sustained
    titles = [each.title for each in report.candidates]
    title = "" if run is None else f"{run.runtime} {run.precision}"
    return titles.index(title) if title in titles else 0


def _figure(svg: str | None, report: Report, name: str, caption: str, only: int | None = None) -> Figure | None:
    if svg is None:
        return None
    legend = tuple(
        (drawing.legend_number(index), each.title)
        for index, each in enumerate(report.candidates)
        if only is None or index == only
    )
    alt = f"{name}: {', '.join(title for _, title in legend)}. The figures stand in the tables of this page."
    return figure(svg, alt, caption, legend)
