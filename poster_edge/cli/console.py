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


class BuildBar:
    """A bar on the terminal for an engine's build; it comes with the first news of one and goes with its end."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> BuildBar:
        return self

    def __call__(self, fraction: float, phase: str) -> None:
        """Show how far the build is.

        Args:
            fraction: 0 to 1; 1 takes the bar away.
            phase: what the builder is at.
        """
        if fraction >= 1:
            self.__exit__()
            return
        if self._bar is None:
            self._bar = progress_bar()
            self._task = self._bar.add_task("engine", total=100)
            self._bar.start()
        self._bar.update(self._task, completed=int(100 * fraction), description=phase[:40] or "engine")

    def __exit__(self, *_: object) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()
