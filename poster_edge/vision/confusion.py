"""A confusion matrix as a picture, drawn with OpenCV alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import PosterEdgeError
from poster_edge.files import write_atomic
from poster_edge.vision.canvas import INK, PAPER, sheet, write

_CELL, _LEFT, _TOP, _BOTTOM = 78, 150, 70, 60
_DEEP = np.array((122, 66, 8), float)  # BGR of a cell that holds its whole row


def draw_confusion(confusion: list[list[int]], classes: tuple[str, ...]) -> NDArray[np.uint8]:
    """Draw counts and row shares.

    Args:
        confusion: counts (C, C), true class in rows.
        classes: C names.

    Returns:
        BGR picture (h, w, 3).
    """
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = _CELL * len(classes)
    canvas = sheet(_TOP + side + _BOTTOM, _LEFT + side + 30)
    for i, name in enumerate(classes):
        write(canvas, name, (_LEFT - 12, _TOP + _CELL * i + _CELL // 2), anchor=1.0)
        write(canvas, name, (_LEFT + _CELL * i + _CELL // 2, _TOP - 14), scale=0.46)
        for j in range(len(classes)):
            _cell(canvas, i, j, int(counts[i, j]), float(shares[i, j]))
    write(
        canvas,
        "true class in rows, predicted class in columns; share of the row",
        (_LEFT + side // 2, _TOP + side + 32),
        scale=0.46,
    )
    return canvas


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a PNG atomically.

    Raises:
        PosterEdgeError: it cannot be encoded or written.
    """
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise PosterEdgeError(f"cannot encode {path}")
    write_atomic(path, data.tobytes())


def _cell(canvas: NDArray[np.uint8], row: int, column: int, count: int, share: float) -> None:
    x, y = _LEFT + column * _CELL, _TOP + row * _CELL
    colour = 255 + (_DEEP - 255) * share
    cv2.rectangle(canvas, (x, y), (x + _CELL - 2, y + _CELL - 2), colour.tolist(), -1)
    ink = PAPER if share > 0.5 else INK
    write(canvas, f"{share:.0%}", (x + _CELL // 2, y + _CELL // 2 - 10), scale=0.62, ink=ink)
    write(canvas, str(count), (x + _CELL // 2, y + _CELL // 2 + 16), scale=0.42, ink=ink)
