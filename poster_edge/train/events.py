"""TensorBoard's event files of a run: every figure of every epoch, written by the ``tensorboard`` package."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from poster_edge.optional import require
from poster_edge.train.reporter import Reporter


class EventLog:
    """Passes a run's news on to another reporter and writes the epochs' figures down for TensorBoard.

    Every phase is a run of its own there.  Epochs that a resumed run repeats replace what was written of them.

    Args:
        folder: for the event files; ``tensorboard --logdir`` shows it.
        reporter: told everything too.

    Raises:
        UnavailableError: the ``tensorboard`` package is missing.
    """

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        require("tensorboard", purpose="write event files")
        self.folder, self.reporter = folder, reporter
        self._writers: dict[str, Any] = {}

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()

    def start(self, phase: str, steps: int) -> None:
        """Pass it on."""
        self.reporter.start(phase, steps)

    def tick(self) -> None:
        """Pass it on."""
        self.reporter.tick()

    def epoch(self, phase: str, row: dict[str, float]) -> None:
        """Write every figure of the row at its epoch, and pass it on."""
        number = int(row["epoch"])
        if phase not in self._writers:
            # Not before there is something to write: a run that is refused leaves no file.
            from torch.utils.tensorboard import SummaryWriter

            self._writers[phase] = SummaryWriter(str(self.folder / phase), purge_step=number)
        for name, value in row.items():
            if name != "epoch":
                self._writers[phase].add_scalar(name, value, number)
        self._writers[phase].flush()
        self.reporter.epoch(phase, row)
