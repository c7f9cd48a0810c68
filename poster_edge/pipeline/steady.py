"""Makes a video's results steady: a number for each face, and its expression averaged over the last moments."""

from __future__ import annotations

from dataclasses import replace

from poster_edge.pipeline.frame import Expression, FaceResult, FrameResult
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
        self._at_least = at_least
        self._tracker = Tracker()
        self._smoother = Smoother(seconds) if seconds else None

    def __call__(self, result: FrameResult, *, continues: bool) -> None:
        """Complete a result; they come in the order of their frames.

        Args:
            result: of a frame of a video or camera.
            continues: whether the frame shows the same scene as the one before; else everybody in it is new.
        """
        if not continues:
            self._tracker.forget()
        tracks = self._tracker.update([f.face for f in result.faces], result.frame.time_s)
        result.faces[:] = [
            replace(f, track=t, steady=self._steady(f, t, result)) for f, t in zip(result.faces, tracks, strict=True)
        ]
        result.unseen = self._tracker.unseen()
        if self._smoother:
            self._smoother.keep(self._tracker.waiting)

    def _steady(self, found: FaceResult, track: int, result: FrameResult) -> Expression | None:
        if not self._smoother:
            return None
        index, averaged = self._smoother.update(track, found.now.probabilities, result.frame.time_s)
        if averaged[index] < self._at_least:
            # Another class may be probable enough, if not by the lead that would make it the label.
            index = int(averaged.argmax())
        return Expression.of(averaged, result.classes, index=index, at_least=self._at_least)
