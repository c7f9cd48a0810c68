"""TensorBoard's event files of a run: every figure of every epoch, written by the ``tensorboard`` package."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from poster_edge.optional import require


class Reporter(Protocol):
    """What a training run tells while it goes on."""

    def start(self, phase: str, steps: int) -> None:
        """A phase of ``steps`` optimiser steps begins."""

    def tick(self) -> None:
        """One step is done."""

    def epoch(self, phase: str, row: dict[str, float]) -> None:
        """An epoch is done; ``row`` is its line of the metrics file."""


class EventLog:
    """Passes a run's news on to another reporter and writes the epochs' figures down for TensorBoard.

    A run's state is saved before its epoch is reported, so a resumed run reports no epoch twice.

    Args:
        folder: for the event files; ``tensorboard --logdir`` shows it.
        reporter: told everything too.

    Raises:
        UnavailableError: the ``tensorboard`` package is missing.
    """

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        require("tensorboard", purpose="write event files")
        self.folder, self.reporter = folder, reporter
        self._writer: Any = None

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def start(self, phase: str, steps: int) -> None:
        """Pass it on."""
        self.reporter.start(phase, steps)

    def tick(self) -> None:
        """Pass it on."""
        self.reporter.tick()

    def epoch(self, phase: str, row: dict[str, float]) -> None:
        """Write every figure of the row at its epoch, and pass it on."""
        if self._writer is None:
            # Not before there is something to write: a run that is refused leaves no file.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder))
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(f"{phase}/{name}", value, int(row["epoch"]))
        self._writer.flush()
        self.reporter.epoch(phase, row)
