"""What the commands say: progress to stderr, data to stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from elit_edge.pages.tables import Sheet


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """A progress bar whose name and share, 0..1, the caller reports; it is silent where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)

        def report(stage: str, share: float) -> None:
            bar.update(task, description=stage, completed=share)

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
