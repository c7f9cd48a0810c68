"""Where a video cuts to another scene: what stands in the same place then is somebody else."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.vision.faces import Image

#: Cells of a frame that are compared, by columns and rows, and how many points a side each is averaged over.
_CELLS = (16, 12)
_SAMPLES = 4
#: Correlation of two successive frames' cells below which there is a cut between them.  On two clips with 7 cuts
#: these have 0.51 at most, all other pairs 0.74 at least.
LIKENESS = 0.6
#: Standard deviation, in levels of 255, of cells that are too alike to be compared: a dark or covered camera.
_FLAT = 4.0


class CutDetector:
    """Compares each frame with the one before, by the light of a few cells of each."""

    def __init__(self) -> None:
        """Begin with no frame seen."""
        self._last: NDArray[np.float32] | None = None
        self._shape: tuple[int, ...] = ()

    def update(self, bgr: Image) -> bool:
        """Take a frame; whether it shows another scene than the one before.

        Args:
            bgr: (h, w, 3) picture.
        """
        cells = _cells(bgr)
        last, self._last = self._last, cells
        resized, self._shape = self._shape != bgr.shape, bgr.shape
        if last is None or resized:
            return last is not None
        spread = [float(np.sqrt((c * c).mean())) for c in (last, cells)]
        if min(spread) < _FLAT:
            return False
        return float((last * cells).mean()) / (spread[0] * spread[1]) < LIKENESS


def _cells(bgr: Image) -> NDArray[np.float32]:
    """Mean light of each cell, less the whole picture's."""
    points = cv2.resize(bgr, (_SAMPLES * _CELLS[0], _SAMPLES * _CELLS[1]), interpolation=cv2.INTER_NEAREST)
    light = cv2.cvtColor(cv2.resize(points, _CELLS, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY).astype(
        np.float32
    )
    return np.asarray(light - light.mean(), np.float32)
