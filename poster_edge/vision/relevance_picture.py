"""Relevance maps over a face as one picture: streams in rows, all levels and each level in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.vision.canvas import sheet, write
from poster_edge.vision.faces import Image

_CELL, _GAP, _TOP, _CAPTION, _NAMES = 150, 10, 34, 24, 90
#: A place without relevance shows the face itself, the most relevant one this much of the colour.
_STRONGEST = 0.75


def draw_relevance(
    crop: Image, maps: Mapping[str, NDArray[np.floating]], widths: Sequence[int], *, lines: Sequence[str]
) -> Image:
    """Draw a heat map for every stream and level; each panel is scaled to its own maximum.

    Below a panel stands its share of the relevance of all streams and levels.

    Args:
        crop: the face (h, w, 3) BGR or (h, w) gray, as the network saw it.
        maps: stream -> relevance (L, h', w'), not negative.
        widths: of the L levels.
        lines: text beside the face: label, probability and so on.

    Returns:
        BGR picture (h, w, 3).
    """
    face = _square(crop)
    columns = ["all levels", *(f"{w} wide" for w in widths)] if len(widths) > 1 else [f"{widths[0]} wide"]
    canvas = sheet(_TOP + len(maps) * (_CELL + _CAPTION) + _GAP, _x(len(columns)))
    _draw_face(canvas, face, lines)
    total = sum(float(m.sum()) for m in maps.values())
    for column, name in enumerate(columns):
        write(canvas, name, (_x(column) + _CELL // 2, _TOP // 2), scale=0.45)
    for row, (stream, levels) in enumerate(maps.items()):
        y = _TOP + row * (_CELL + _CAPTION)
        write(canvas, stream, (_x(0) - _GAP, y + _CELL // 2), scale=0.45, anchor=1.0)
        panels = [levels.sum(axis=0), *levels] if len(widths) > 1 else [levels[0]]
        for column, panel in enumerate(panels):
            x = _x(column)
            canvas[y : y + _CELL, x : x + _CELL] = heat(face, panel)
            share = float(panel.sum()) / total if total > 0 else 0.0
            text = f"{share:.0%}" if share >= 0.005 or share == 0 else "<1%"
            write(canvas, text, (x + _CELL // 2, y + _CELL + _CAPTION // 2), scale=0.42)
    return canvas


def heat(face: Image, relevance: NDArray[np.floating]) -> Image:
    """A square face under its relevance map (h', w'), scaled to the map's maximum."""
    side = face.shape[0]
    most = float(relevance.max())
    scaled = (relevance / most if most > 0 else relevance).astype(np.float32)
    smooth = np.clip(cv2.resize(scaled, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1)
    colours = cv2.applyColorMap(np.round(255 * smooth).astype(np.uint8), cv2.COLORMAP_TURBO).astype(np.float32)
    # The square root lets middling places show.
    alpha = _STRONGEST * np.sqrt(smooth)[:, :, None]
    gray = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR).astype(np.float32)
    return np.asarray(np.round(gray * (1 - alpha) + colours * alpha), np.uint8)


def _x(column: int) -> int:
    return 2 * _GAP + _CELL + _NAMES + column * (_CELL + _GAP)


def _square(crop: Image) -> Image:
    bgr = cv2.cvtColor(crop, cv2.COLOR_GRAY2BGR) if crop.ndim == 2 else crop
    method = cv2.INTER_AREA if min(bgr.shape[:2]) > _CELL else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(bgr, (_CELL, _CELL), interpolation=method), np.uint8)


def _draw_face(canvas: Image, face: Image, lines: Sequence[str]) -> None:
    canvas[_TOP : _TOP + _CELL, _GAP : _GAP + _CELL] = face
    for i, text in enumerate(lines):
        write(canvas, text, (_GAP, _TOP + _CELL + _CAPTION // 2 + 22 * i), scale=0.48, anchor=0.0)
