"""How ``poster-edge train`` shows a run: a bar on a terminal, a line per epoch always."""

from __future__ import annotations

from types import TracebackType

from rich.progress import TaskID

from poster_edge.cli import console


class ConsoleReporter:
    """Implements :class:`poster_edge.train.run.Reporter` on the console."""

    def __init__(self) -> None:
        self.bar = console.progress_bar()
        self.task: TaskID | None = None

    def __enter__(self) -> ConsoleReporter:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def start(self, phase: str, steps: int) -> None:
        """Begin a phase of ``steps`` steps."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(phase, total=steps)

    def tick(self) -> None:
        """One step is done."""
        if self.task is not None:
            self.bar.advance(self.task)

    def epoch(self, phase: str, row: dict[str, float]) -> None:
        """Print an epoch's row."""
        values = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch")
        console.message(f"{phase} epoch {row['epoch']:.0f}: {values}")
