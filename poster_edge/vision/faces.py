"""What a face detector is and what it finds; the detector that takes the whole picture for one face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Face:
    """One detected face, framed by YuNet's convention whichever detector found it.

    Attributes:
        box: (x, y, w, h) in pixels of the whole picture; may leave the picture.
        score: the detector's confidence, 0 to 1.
        landmarks: (5, 2) pixels: right eye, left eye, nose, right and left mouth corner (the
            person's own right, so the left one in the picture), or None.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: NDArray[np.float32] | None = None

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of its box in pixels."""
        x, y, w, h = self.box
        return x + w / 2, y + h / 2


class Detector(Protocol):
    """Finds faces; ``name`` is what reports call it."""

    name: str

    def detect(self, bgr: Image, *, fine: bool = False) -> list[Face]:
        """Find the faces of one picture, the largest first.

        Args:
            bgr: (h, w, 3) picture.
            fine: take more time and find smaller faces in large pictures (photos, not streams).
        """
        ...


class WholePicture:
    """Takes the whole picture for one face: for pictures that are face crops already."""

    name = "none"

    def detect(self, bgr: Image, *, fine: bool = False) -> list[Face]:
        """Return one face that fills the picture, with score 1."""
        height, width = bgr.shape[:2]
        return [Face((0.0, 0.0, float(width), float(height)), 1.0)]


def largest_first(faces: list[Face]) -> list[Face]:
    """Order faces by the area of their boxes."""
    return sorted(faces, key=lambda face: face.box[2] * face.box[3], reverse=True)


def shrink(bgr: Image, pixels: int) -> tuple[Image, float]:
    """Scale a picture down until it has at most ``pixels`` pixels; never up.

    An area, not a side, bounds the detector's time, and a panorama keeps its small faces.

    Returns:
        The picture and the factor that was applied (1 for none).
    """
    import cv2

    height, width = bgr.shape[:2]
    if height * width <= pixels:
        return bgr, 1.0
    scale = (pixels / (height * width)) ** 0.5
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA), np.uint8), scale
