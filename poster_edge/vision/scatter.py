"""Points in the plane as a picture, one colour per class: for t-SNE of a network's features."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.vision.canvas import sheet, write
from poster_edge.vision.colours import Colour, colour_of

_SIDE, _MARGIN, _LEGEND, _FOOT = 640, 20, 150, 42
_RADIUS, _SHIFT = 2.8, 4


def draw_scatter(
    points: NDArray[np.floating], labels: NDArray[np.int64], classes: tuple[str, ...], *, caption: str
) -> NDArray[np.uint8]:
    """Draw points, those of every class in random order so that no class hides the others.

    Args:
        points: (N, 2).
        labels: (N,) class indices.
        classes: C names.
        caption: a line below.

    Returns:
        BGR picture (h, w, 3).
    """
    canvas = sheet(_SIDE + _FOOT, _SIDE + _LEGEND)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (_SIDE - 2 * _MARGIN) / max(float((high - low).max()), 1e-12)
    placed = (points - (low + high) / 2) * scale + _SIDE / 2
    for index in np.random.default_rng(0).permutation(len(points)):
        centre = tuple(round(float(v) * (1 << _SHIFT)) for v in placed[index])
        colour = _on_paper(classes[int(labels[index])], classes)
        cv2.circle(canvas, centre, round(_RADIUS * (1 << _SHIFT)), colour, -1, cv2.LINE_AA, _SHIFT)
    for k, name in enumerate(classes):
        y = _MARGIN + 30 * k + 10
        cv2.circle(canvas, (_SIDE + 14, y), 7, _on_paper(name, classes), -1, cv2.LINE_AA)
        write(canvas, f"{name} ({int((labels == k).sum())})", (_SIDE + 30, y), scale=0.48, anchor=0.0)
    write(canvas, caption, ((_SIDE + _LEGEND) // 2, _SIDE + _FOOT // 2), scale=0.46)
    return canvas


def _on_paper(name: str, classes: tuple[str, ...]) -> Colour:
    """A class's colour, darkened where it is too light for white paper."""
    blue, green, red = colour_of(name, classes)
    if min(blue, green, red) < 150:
        return blue, green, red
    return blue * 3 // 5, green * 3 // 5, red * 3 // 5
