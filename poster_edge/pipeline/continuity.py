"""Which frame goes on where the one before it stopped: the same video, the same scene."""

from __future__ import annotations

from poster_edge.pipeline.frame import Frame
from poster_edge.vision.cuts import CutDetector


class Continuity:
    """Looks at the frames of a run in their order; a picture that stands alone continues nothing."""

    def __init__(self) -> None:
        """Begin with no frame seen."""
        self._source: str | None = None
        self._time_s = 0.0
        self._cuts = CutDetector()

    def update(self, frame: Frame) -> bool:
        """Take a frame; whether it shows the same scene as the one before, a moment later."""
        source, self._source = self._source, frame.source if frame.kind != "image" else None
        before_s, self._time_s = self._time_s, frame.time_s
        if self._source is None:
            return False
        cut = self._cuts.update(frame.image, frame.time_s)
        return self._source == source and frame.time_s >= before_s and not cut
