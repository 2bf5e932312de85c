"""What the commands say: progress to stderr, data to stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from elit_edge.pages.tables import Sheet

SPEED_ESTIMATE_S = 3600.0
"""Over so much of the past: what takes hours reports once in minutes."""


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """A progress bar whose name and share, 0..1, the caller reports, with the time passed and the time left of each
    stage; it is silent where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=SPEED_ESTIMATE_S,
    ) as bar:
        task = bar.add_task("", total=1.0)
        current = ""

        def report(stage: str, share: float) -> None:
            nonlocal task, current
            if stage != current:  # the time left follows from this stage's own speed
                bar.remove_task(task)
                task, current = bar.add_task(stage, total=1.0), stage
            bar.update(task, completed=share)

        yield report


def say(words: str) -> None:
    """Words for the person: stderr, so that stdout stays data."""
    click.echo(words, err=True)


def sheet_table(sheet: Sheet) -> Table:
    """Names are foreign text: in a plain string rich would take [brackets] for its own markup."""
    table = Table(title=Text(sheet.title), title_justify="left", box=None, padding=(0, 1, 0, 0))
    for index, head in enumerate(sheet.heads):
        table.add_column(Text(head), justify="right" if sheet.numbers and index else "left")
    for row in sheet.rows:
        table.add_row(*map(Text, row))
    return table
