"""Drawing: stays inside, leaves the original, covers no face, hides faces when asked."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from poster_edge.vision.draw import blur_face, draw_faces
from poster_edge.vision.faces import Face, Image

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
ROW = np.array([0.02, 0.01, 0.03, 0.8, 0.08, 0.03, 0.03])


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((480, 640), (200.0, 100.0, 120.0, 150.0)),
        ((3000, 4000), (2000.0, 1000.0, 900.0, 1100.0)),
        ((480, 640), (-50.0, -40.0, 120.0, 150.0)),
        ((480, 640), (600.0, 420.0, 200.0, 250.0)),
        ((480, 640), (0.0, 0.0, 640.0, 480.0)),
        ((480, 640), (900.0, 900.0, 50.0, 50.0)),
        ((48, 48), (0.0, 0.0, 48.0, 48.0)),
        ((1, 3), (0.0, 0.0, 3.0, 1.0)),
    ],
    ids=["plain", "4000px", "top-left", "bottom-right", "fills-it", "outside", "fer2013-size", "three-pixels"],
)
@pytest.mark.parametrize("blur", [False, True], ids=["", "blur"])
def test_draws_on_a_copy_for_any_box(size: tuple[int, int], box: tuple[float, float, float, float], blur: bool) -> None:
    picture = noise(*size)
    before = picture.copy()
    face = Face(box, 0.9)
    drawn = draw_faces(picture, [face], [ROW], CLASSES, hidden=[face] if blur else [])
    np.testing.assert_array_equal(picture, before)
    assert drawn.shape == picture.shape
    assert (drawn != picture).any()


def test_letters_grow_with_the_picture() -> None:
    changed = []
    for scale in (1, 6):
        blank = np.full((480 * scale, 640 * scale, 3), 128, np.uint8)
        box = (200.0 * scale, 100.0 * scale, 120.0 * scale, 150.0 * scale)
        drawn = draw_faces(blank, [Face(box, 0.9)], [ROW], CLASSES)
        changed.append(float((drawn != blank).any(axis=2).mean()))
    assert changed[1] == pytest.approx(changed[0], rel=0.1)


def test_bars_cover_no_face() -> None:
    blank = np.full((480, 640, 3), 128, np.uint8)
    boxes = [(100.0, 150.0, 90.0, 110.0), (200.0, 150.0, 90.0, 110.0), (300.0, 150.0, 90.0, 110.0)]
    drawn = draw_faces(blank, [Face(b, 0.9) for b in boxes], [ROW] * 3, CLASSES)
    for x, y, w, h in boxes:
        inner = drawn[int(y) + 4 : int(y + h) - 4, int(x) + 4 : int(x + w) - 4]
        assert (inner == 128).all()


def test_blur_cannot_be_undone_by_sharpening() -> None:
    picture = noise(200, 200)
    cv2.rectangle(picture, (80, 80), (90, 90), (255, 255, 255), -1)
    blur_face(picture, Face((50.0, 50.0, 100.0, 100.0), 0.9))
    part = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[60:140, 60:140].astype(np.float64)
    # Noise has neighbours 85 apart on average; what is left differs by less than the eye can see.
    assert np.abs(np.diff(part, axis=1)).mean() < 2


def test_unknown_classes_have_different_colours() -> None:
    blank = np.full((480, 640, 3), 128, np.uint8)
    names = ("bored", "awake")
    face = Face((200.0, 100.0, 120.0, 150.0), 0.9)
    first, second = (draw_faces(blank, [face], [np.array(row)], names) for row in ([0.9, 0.1], [0.1, 0.9]))
    assert (first[100, 260] != second[100, 260]).any()
