"""Square face crops, framed as the model's manifest says."""

from __future__ import annotations

import math

import numpy as np

from poster_edge.config import Preprocess
from poster_edge.vision.faces import Image

#: Boxes with a shorter side hold no face worth naming.
SMALLEST_PX = 4.0
#: A crop this many times the picture's longer side is a detector's mistake.
_LARGEST = 4

Box = tuple[float, float, float, float]


def crop_square(box: Box, preprocess: Preprocess) -> tuple[int, int, int]:
    """The square to cut for a face: (left, top, side) in whole pixels; may leave the picture.

    Args:
        box: the face's (x, y, w, h) in pixels.
        preprocess: its ``margin`` and ``shift_y`` say how the square frames the box.
    """
    x, y, w, h = box
    longer = max(w, h)
    side = max(1, round(longer * (1 + preprocess.margin)))
    cx, cy = x + w / 2, y + h / 2 + preprocess.shift_y * longer
    return round(cx - side / 2), round(cy - side / 2), side


def usable(box: Box, image: Image) -> bool:
    """Whether a box is finite, at least 4 px on each side and not absurdly larger than the picture."""
    return (
        all(math.isfinite(v) for v in box)
        and min(box[2:]) >= SMALLEST_PX
        and max(box[2:]) <= _LARGEST * max(image.shape[:2])
    )


def crop_face(image: Image, box: Box, preprocess: Preprocess) -> Image:
    """Cut a face's square; what lies outside the picture repeats the picture's edge.

    The square is not turned to the eye line: the models are trained on upright boxes with small
    rotations, and a turned crop would show them a framing they have not seen.

    Args:
        image: (h, w, 3) picture.
        box: (x, y, w, h) in pixels, :func:`usable`.
        preprocess: the model's framing.

    Returns:
        (side, side, 3), a view where the square lies inside the picture.
    """
    left, top, side = crop_square(box, preprocess)
    height, width = image.shape[:2]
    if left >= 0 and top >= 0 and left + side <= width and top + side <= height:
        return image[top : top + side, left : left + side]
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    return image[rows][:, columns]
