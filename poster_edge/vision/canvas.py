"""Text and sheets of white paper for figures, drawn with OpenCV alone."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

FONT = cv2.FONT_HERSHEY_DUPLEX
INK, PAPER = (40, 40, 40), (255, 255, 255)


def sheet(height: int, width: int) -> NDArray[np.uint8]:
    """White paper, (height, width, 3)."""
    return np.full((height, width, 3), 255, np.uint8)


def write(
    canvas: NDArray[np.uint8],
    text: str,
    at: tuple[int, int],
    *,
    scale: float = 0.55,
    anchor: float = 0.5,
    ink: tuple[int, int, int] = INK,
) -> None:
    """Write ``text`` with its point ``anchor`` (0 left, 1 right) and its vertical middle at ``at``."""
    (width, height), _ = cv2.getTextSize(text, FONT, scale, 1)
    origin = (round(at[0] - anchor * width), at[1] + height // 2)
    cv2.putText(canvas, text, origin, FONT, scale, ink, 1, cv2.LINE_AA)
