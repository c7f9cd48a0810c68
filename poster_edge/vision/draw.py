"""Draws results into a copy of the picture: boxes, labels, bars of all classes, blurred faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.vision.colours import Colour, colour_of, ink_on
from poster_edge.vision.faces import Face, Image

#: What stands in a label's place where no class is probable enough.
UNCERTAIN = "uncertain"

_FONT = cv2.FONT_HERSHEY_SIMPLEX
#: Height of a capital letter at font scale 1 (px), and what the lines below want.
_CAPITAL_PX = 22.0
_LABEL_PX = 11.0
_BAR_PX = 8.0
#: Labels are not made smaller than this for a small face.
_LEGIBLE_PX = 8.0
#: Longer side of the picture for which those heights are meant.
_REFERENCE_PX = 640.0


@dataclass(frozen=True)
class Rect:
    """A rectangle in whole pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column to its right."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """First row below it."""
        return self.top + self.height

    def meets(self, other: Rect) -> bool:
        """Whether the two share a pixel."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, width: int, height: int) -> bool:
        """Whether it lies in a picture of that size."""
        return self.left >= 0 and self.top >= 0 and self.right <= width and self.bottom <= height


def draw_faces(
    image: Image,
    faces: Sequence[Face],
    probabilities: Sequence[NDArray[np.float64]],
    classes: tuple[str, ...],
    *,
    labels: Sequence[str | None] | None = None,
    hidden: Sequence[Face] = (),
) -> Image:
    """Draw boxes with label and probability, and bars of all classes where there is room for them.

    Lines and letters grow with the picture; nothing is drawn outside it, and bars never cover a
    face or another label.

    Args:
        image: (h, w, 3) BGR, left as it is.
        faces: N faces.
        probabilities: N arrays (C,).
        classes: C names.
        labels: N classes to name, None for none; left out: the most probable ones.
        hidden: faces to make unrecognisable.

    Returns:
        (h, w, 3), a new picture.
    """
    canvas = image.copy()
    for face in hidden:
        blur_face(canvas, face)
    unit = max(image.shape[:2]) / _REFERENCE_PX
    boxes = [_box(face, image) for face in faces]
    taken = [b for b in boxes if b.width and b.height]
    if labels is None:
        labels = [classes[int(row.argmax())] for row in probabilities]
    items = list(zip(boxes, probabilities, labels, strict=True))
    for box, row, label in items:
        text = UNCERTAIN if label is None else f"{label} {row[classes.index(label)] * 100:.0f}%"
        taken.append(_draw_label(canvas, box, text, colour_of(label, classes), unit, taken))
    for box, row, _ in items:
        panel = _place_panel(box, classes, taken, image, unit)
        if panel:
            _draw_bars(canvas, panel, row, classes, unit)
            taken.append(panel)
    return canvas


def blur_face(canvas: Image, face: Face) -> None:
    """Make one face unrecognisable in place: an ellipse of a few coarse cells, then smoothed.

    The cells are averages over a sixth of the face, so no filter brings the face back.
    """
    x, y, w, h = face.box
    grown = Face((x - 0.15 * w, y - 0.15 * h, 1.3 * w, 1.3 * h), face.score)
    box = _box(grown, canvas)
    if not box.width or not box.height:
        return
    part = canvas[box.top : box.bottom, box.left : box.right]
    coarse = cv2.resize(part, (min(6, box.width), min(6, box.height)), interpolation=cv2.INTER_AREA)
    smooth = cv2.resize(coarse, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
    mask = np.zeros(part.shape[:2], np.uint8)
    gx, gy, gw, gh = grown.box
    centre = (round(gx + gw / 2) - box.left, round(gy + gh / 2) - box.top)
    cv2.ellipse(mask, centre, (round(gw / 2), round(gh / 2)), 0, 0, 360, 255, -1)
    part[mask > 0] = smooth[mask > 0]


def _box(face: Face, image: Image) -> Rect:
    """A face's box, cut to the picture; empty where it lies outside."""
    height, width = image.shape[:2]
    x, y, w, h = face.box
    left, right = (int(np.clip(v, 0, width)) for v in (x, x + w))
    top, bottom = (int(np.clip(v, 0, height)) for v in (y, y + h))
    return Rect(left, top, max(0, right - left), max(0, bottom - top))


def _text_size(text: str, capital_px: float) -> tuple[int, int, float, int]:
    """Width and height in px, font scale and stroke of a text whose capitals are ``capital_px`` high."""
    scale = capital_px / _CAPITAL_PX
    stroke = max(1, int(capital_px / 9))
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, stroke)
    return width, round(capital_px), scale, stroke


def _draw_label(canvas: Image, box: Rect, text: str, colour: Colour, unit: float, taken: list[Rect]) -> Rect:
    """Draw a box with its label above, below or inside it; returns the label's rectangle."""
    line = max(1, round(min(1.6 * unit, min(box.width, box.height) / 20)))
    cv2.rectangle(canvas, (box.left, box.top), (box.right - 1, box.bottom - 1), colour, line, cv2.LINE_AA)
    capital_px = _label_height(text, box, canvas, unit)
    width, height, scale, stroke = _text_size(text, capital_px)
    pad = max(1, round(0.27 * capital_px))
    place = _place_label(box, width + 2 * pad, height + 2 * pad, canvas, [t for t in taken if t != box])
    _fill(canvas, place, colour)
    cv2.putText(
        canvas, text, (place.left + pad, place.top + pad + height), _FONT, scale, ink_on(colour), stroke, cv2.LINE_AA
    )
    return place


def _label_height(text: str, box: Rect, canvas: Image, unit: float) -> float:
    """Letters for the picture's size, smaller for a small face in a crowd, legible, and never too wide."""
    wanted = _LABEL_PX * unit
    width = _text_size(text, wanted)[0]
    fitted = max(_LEGIBLE_PX, wanted * min(1.0, 1.6 * box.width / width))
    return min(fitted, wanted * 0.9 * canvas.shape[1] / width)


def _place_label(box: Rect, width: int, height: int, canvas: Image, taken: list[Rect]) -> Rect:
    rows, columns = canvas.shape[:2]
    left = max(0, min(box.left, columns - width))
    tops = (box.top - height, box.bottom, box.top, box.bottom - height)
    places = [Rect(left, top, width, height) for top in tops]
    visible = [p for p in places if p.top >= 0 and p.bottom <= rows]
    free = [p for p in visible if not any(p.meets(t) for t in taken)]
    fallback = Rect(left, max(0, min(box.top, rows - height)), width, height)
    return next(iter(free + visible), fallback)


def _panel_size(classes: tuple[str, ...], unit: float) -> tuple[int, int, int, int]:
    """Width and height of the bars' panel, its rows' height and the names' width, in px."""
    names = max(_text_size(c, _BAR_PX * unit)[0] for c in classes)
    row = round(_BAR_PX * unit * 1.75)
    pad = round(4 * unit)
    return names + round(46 * unit) + 3 * pad, row * len(classes) + 2 * pad, row, names


def _place_panel(box: Rect, classes: tuple[str, ...], taken: list[Rect], image: Image, unit: float) -> Rect | None:
    width, height, _, _ = _panel_size(classes, unit)
    gap = max(2, round(3 * unit))
    rows, columns = image.shape[:2]
    top = max(0, min(box.top, rows - height))
    left = max(0, min(box.left, columns - width))
    places = (
        Rect(box.right + gap, top, width, height),
        Rect(box.left - gap - width, top, width, height),
        Rect(left, box.bottom + gap, width, height),
        Rect(left, box.top - gap - height, width, height),
    )
    return next((p for p in places if p.inside(columns, rows) and not any(p.meets(t) for t in taken)), None)


def _draw_bars(canvas: Image, panel: Rect, row: NDArray[np.float64], classes: tuple[str, ...], unit: float) -> None:
    """Names and bars of all classes on a darkened panel; a full bar is probability 1."""
    part = canvas[panel.top : panel.bottom, panel.left : panel.right]
    part[:] = part // 4
    _, _, step, names = _panel_size(classes, unit)
    pad = round(4 * unit)
    start = panel.left + 2 * pad + names
    length = panel.right - pad - start
    for index, (name, probability) in enumerate(zip(classes, row, strict=True)):
        top = panel.top + pad + index * step
        _, height, scale, stroke = _text_size(name, _BAR_PX * unit)
        base = top + (step + height) // 2
        cv2.putText(canvas, name, (panel.left + pad, base), _FONT, scale, (235, 235, 235), stroke, cv2.LINE_AA)
        bar = Rect(start, base - height, length, height)
        _fill(canvas, bar, (70, 70, 70))
        filled = Rect(start, bar.top, round(length * float(np.clip(probability, 0, 1))), height)
        _fill(canvas, filled, colour_of(name, classes))


def _fill(canvas: Image, rect: Rect, colour: Colour) -> None:
    canvas[max(0, rect.top) : max(0, rect.bottom), max(0, rect.left) : max(0, rect.right)] = colour
