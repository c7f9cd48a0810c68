"""Makes a video's results steady: a number for each face, and its expression averaged over the last moments."""

from __future__ import annotations

from dataclasses import replace

from poster_edge.pipeline.frame import Expression, FaceResult, FrameResult
from poster_edge.vision.cuts import CutDetector
from poster_edge.vision.smooth import Smoother
from poster_edge.vision.track import Tracker


class Steadier:
    """Adds tracks and steady expressions to the results of successive frames."""

    def __init__(self, seconds: float, *, at_least: float = 0.0) -> None:
        """Begin with nothing seen.

        Args:
            seconds: of the average; 0 numbers the faces and averages nothing.
            at_least: probability below which no expression is named.
        """
        self._seconds = seconds
        self._at_least = at_least
        self._tracker = Tracker()
        self._source = ""
        self._begin("")

    def _begin(self, source: str) -> None:
        """Forget what was seen; numbers go on, so that they are never given twice."""
        self._source = source
        self._cuts = CutDetector()
        self._tracker.forget()
        self._smoother = Smoother(self._seconds) if self._seconds else None

    def __call__(self, result: FrameResult) -> None:
        """Complete a result; they come in the order of their frames."""
        frame = result.frame
        if frame.source != self._source:
            self._begin(frame.source)
        if self._cuts.update(frame.image):
            self._tracker.forget()
        tracks = self._tracker.update([f.face for f in result.faces], frame.time_s)
        result.faces[:] = [
            replace(f, track=t, steady=self._steady(f, t, result)) for f, t in zip(result.faces, tracks, strict=True)
        ]
        if self._smoother:
            self._smoother.keep(self._tracker.waiting)

    def _steady(self, found: FaceResult, track: int, result: FrameResult) -> Expression | None:
        if not self._smoother:
            return None
        index, averaged = self._smoother.update(track, found.now.probabilities, result.frame.time_s)
        return Expression.of(averaged, result.classes, index=index, at_least=self._at_least)
