"""What a training run tells while it goes on, and a listener that says nothing."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Hears about a run's progress."""

    def start(self, phase: str, steps: int) -> None:
        """A phase of ``steps`` optimiser steps begins."""

    def tick(self) -> None:
        """One step is done."""

    def epoch(self, phase: str, row: dict[str, float]) -> None:
        """An epoch is done; ``row`` is its line of the metrics file."""


class Silence:
    """A :class:`Reporter` that tells nobody."""

    def start(self, phase: str, steps: int) -> None:
        """Nothing."""

    def tick(self) -> None:
        """Nothing."""

    def epoch(self, phase: str, row: dict[str, float]) -> None:
        """Nothing."""
