"""Where a video cuts to another scene: what stands in the same place then is somebody else."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.vision.faces import Image

#: Cells of a frame that are compared, by columns and rows, and how many points a side each is averaged over.
_CELLS = (16, 12)
_SAMPLES = 4
#: Correlation of two frames' cells below which there is a cut between them, where they are so many seconds apart at
#: most.  On two clips of 25 and 30 frames a second with 7 cuts these have 0.51 at most, other pairs 0.74 at least.
LIKENESS, _APART_S = 0.6, 0.05
#: Frames further apart differ more without a cut: the bound falls with their distance to this power, down to a least.
#: Of every second to eighth frame of the same clips, at least 2 of a clip's 3 or 4 cuts are found, and at most one
#: other pair is taken for one.
_FALL, _LEAST = 0.75, 0.2
#: Standard deviation, in levels of 255, of cells that are too alike to be compared: a dark or covered camera.
_FLAT = 4.0


class CutDetector:
    """Compares each frame with the one before, by the light of a few cells of each; dark ones are passed over."""

    def __init__(self) -> None:
        """Begin with no frame seen."""
        self._last: NDArray[np.float32] | None = None
        self._last_s = 0.0
        self._shape: tuple[int, ...] = ()

    def update(self, bgr: Image, time_s: float) -> bool:
        """Take a frame; whether it shows another scene than the last one that was not dark.

        Args:
            bgr: (h, w, 3) picture.
            time_s: the frame's time.
        """
        resized, self._shape = self._shape not in ((), bgr.shape), bgr.shape
        cells = _cells(bgr)
        if _spread(cells) < _FLAT:
            return resized
        last, self._last = self._last, cells
        apart_s, self._last_s = time_s - self._last_s, time_s
        if last is None or resized:
            return resized
        likeness = float((last * cells).mean()) / (_spread(last) * _spread(cells))
        return likeness < max(_LEAST, LIKENESS * (_APART_S / max(_APART_S, apart_s)) ** _FALL)


def _spread(cells: NDArray[np.float32]) -> float:
    return float(np.sqrt((cells * cells).mean()))


def _cells(bgr: Image) -> NDArray[np.float32]:
    """Mean light of each cell, less the whole picture's."""
    points = cv2.resize(bgr, (_SAMPLES * _CELLS[0], _SAMPLES * _CELLS[1]), interpolation=cv2.INTER_NEAREST)
    light = cv2.cvtColor(cv2.resize(points, _CELLS, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY).astype(
        np.float32
    )
    return np.asarray(light - light.mean(), np.float32)
