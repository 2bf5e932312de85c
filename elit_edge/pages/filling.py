"""From a template of the package and what stands in it to the text of a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A plot with what belongs to it."""

    svg: object
    """Markup of our own, which the template does not escape."""
    alt: str
    caption: str
    legend: tuple[tuple[int, str], ...]
    """Number of a series colour, 1 .. 6, and whose it is."""


def figure(svg: str, alt: str, caption: str, legend: Iterable[tuple[int, str]] = ()) -> Figure:
    """A figure of what `drawing.plot` drew."""
    from markupsafe import Markup

    return Figure(Markup(svg), alt, caption, tuple(legend))  # noqa: S704 - from matplotlib, which escapes text


def fill(template: str, **values: object) -> str:
    """The page as HTML. Every string is escaped, except the plots.

    Args:
        template: its path inside the package, such as "bench/page.html.j2".
        values: all that it names.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # an empty path: templates lie in the rooms that they belong to
    house = PackageLoader("elit_edge", "")
    environment = Environment(loader=house, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(template).render(values)
