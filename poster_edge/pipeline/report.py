"""What a run tells: one line per image, and the figures of its summary."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from poster_edge.pipeline.frame import Expression, FrameResult
from poster_edge.pipeline.stages import STAGES
from poster_edge.vision.draw import UNCERTAIN

#: Frames whose latencies are kept for the percentiles, at most: a camera may run for weeks.
_KEPT = 10_000
#: Faces that an image's line names; the JSON lines have them all.
_NAMED = 20


def describe(result: FrameResult) -> str:
    """One line for people: ``photo.jpg: 1 face: happy 97 % (412 96 151 180)``, boxes as x y w h in px."""
    count = len(result.faces)
    line = f"{result.frame.source}: {count or 'no'} face{'' if count == 1 else 's'}"
    if not count:
        return line
    named = [f"{_name(f.shown)} ({' '.join(str(round(v)) for v in f.face.box)})" for f in result.faces[:_NAMED]]
    rest = [f"and {count - _NAMED} smaller ones"] if count > _NAMED else []
    return f"{line}: {', '.join(named + rest)}"


def _name(expression: Expression) -> str:
    return f"{expression.label} {expression.probability * 100:.0f} %" if expression.label else UNCERTAIN


class Sampled:
    """Numbers of a run of any length in bounded memory: all of them at first, later every second, fourth, eighth …"""

    def __init__(self, most: int = _KEPT) -> None:
        """Begin with none.

        Args:
            most: numbers that are kept; halved when it is reached.
        """
        self._most = most
        self._stride, self._seen = 1, 0
        self._kept: list[float] = []

    def add(self, value: float) -> None:
        """Take the next number."""
        if self._seen % self._stride == 0:
            if len(self._kept) == self._most:
                del self._kept[1::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self._kept.append(value)
        self._seen += 1

    def percentiles(self, *wanted: float) -> list[float]:
        """Percentiles of the numbers, 0 to 100 each."""
        return [float(v) for v in np.percentile(self._kept, wanted)]


@dataclass
class Tally:
    """Counts over a run.

    Attributes:
        frames: frames processed.
        faces: faces found in them.
        tracks: numbers that were given to faces of videos.
        labels: label that was shown -> faces.
        problems: inputs that could not be read, or not to their end.
    """

    frames: int = 0
    faces: int = 0
    tracks: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    problems: int = 0
    _latency: dict[str, Sampled] = field(default_factory=dict)
    _start: float = field(default_factory=time.perf_counter)
    _end: float | None = None

    def add(self, result: FrameResult) -> None:
        """Count one frame's result."""
        self.frames += 1
        self.faces += len(result.faces)
        self.labels.update(f.shown.label or UNCERTAIN for f in result.faces)
        self.tracks = max([self.tracks, *(f.track or 0 for f in result.faces)])
        for stage, ms in (*result.latency_ms.items(), ("total", sum(result.latency_ms.values()))):
            self._latency.setdefault(stage, Sampled()).add(ms)

    def restart(self) -> None:
        """Begin the time that :attr:`fps` is taken over: everything is loaded."""
        self._start = time.perf_counter()

    def stop(self) -> None:
        """End the time that :attr:`fps` is taken over."""
        self._end = time.perf_counter()

    @property
    def fps(self) -> float:
        """Frames per second of wall time, reading and writing included."""
        return self.frames / max(1e-9, (self._end or time.perf_counter()) - self._start)

    def latency(self) -> list[tuple[str, float, float]]:
        """(stage, median ms, p90 ms) of every stage that ran, and of their sum, "total"."""
        order = [s for s in (*STAGES, "total") if s in self._latency]
        rows = []
        for stage in order:
            median, p90 = self._latency[stage].percentiles(50, 90)
            rows.append((stage, median, p90))
        return rows

    def headline(self) -> str:
        """The summary's first line: frames, faces, FPS, labels, inputs that could not be read."""
        parts = [
            f"{self.frames} frame{'' if self.frames == 1 else 's'}",
            f"{self.faces} face{'' if self.faces == 1 else 's'}",
        ]
        if self.tracks:
            parts.append(f"{self.tracks} track{'' if self.tracks == 1 else 's'}")
        parts.append(f"{self.fps:.1f} FPS")
        if self.problems:
            parts.append(f"{self.problems} unreadable or damaged input{'' if self.problems == 1 else 's'}")
        labels = ", ".join(f"{name} {count}" for name, count in self.labels.most_common())
        return ", ".join(parts) + (f"; {labels}" if labels else "")
