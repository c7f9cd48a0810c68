"""Output of the commands: data to stdout, messages, tables and progress bars to stderr."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

#: Columns of a table that goes into a file or a pipe, where there is no terminal to ask.
_PIPE_WIDTH = 150


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


stdout = _console(stderr=False)
stderr = _console(stderr=True)


def message(text: str) -> None:
    """One line to the user, on stderr."""
    stderr.print(text, markup=False)


def table(title: str, columns: list[str], rows: list[list[Any]]) -> Table:
    """A table whose columns after the first are right-aligned; text is taken literally, ``Text`` as it is."""
    out = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        out.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        out.add_row(*(v if isinstance(v, Text) else Text("" if v is None else str(v)) for v in row))
    return out


def progress_bar() -> Progress:
    """A progress bar on stderr that shows itself on a terminal only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )
