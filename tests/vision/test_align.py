"""Crops: framing, edges of the picture, degenerate boxes."""

from __future__ import annotations

import numpy as np
import pytest

from poster_edge.config import Preprocess
from poster_edge.vision.align import crop_face, crop_square, usable

GRADIENT = np.stack(np.meshgrid(np.arange(100), np.arange(80), [7]), axis=-1).astype(np.uint8).reshape(80, 100, 3)


@pytest.mark.parametrize(
    ("margin", "shift", "expected"),
    [(0.0, 0.0, (25, 20, 40)), (0.5, 0.0, (15, 10, 60)), (-0.25, 0.0, (30, 25, 30)), (0.0, 0.25, (25, 30, 40))],
    ids=["tight", "wide", "inner", "lowered"],
)
def test_square_frames_the_longer_side(margin: float, shift: float, expected: tuple[int, int, int]) -> None:
    assert crop_square((30.0, 20.0, 30.0, 40.0), Preprocess(margin=margin, shift_y=shift)) == expected


def test_crop_inside_is_the_pictures_own_pixels() -> None:
    crop = crop_face(GRADIENT, (30.0, 20.0, 30.0, 40.0), Preprocess(margin=0.0))
    np.testing.assert_array_equal(crop, GRADIENT[20:60, 25:65])


@pytest.mark.parametrize(
    "box",
    [(-15.0, 10.0, 30.0, 30.0), (85.0, 60.0, 30.0, 30.0), (-10.0, -10.0, 130.0, 110.0), (300.0, -200.0, 20.0, 20.0)],
    ids=["left", "corner", "all-sides", "wholly-outside"],
)
def test_outside_repeats_the_edge(box: tuple[float, float, float, float]) -> None:
    preprocess = Preprocess(margin=0.0)
    crop = crop_face(GRADIENT, box, preprocess)
    left, top, side = crop_square(box, preprocess)
    assert crop.shape == (side, side, 3)
    # The gradient's first two channels are x and y, so the nearest pixel is known everywhere.
    assert (crop[0, :, 0] == np.clip(np.arange(left, left + side), 0, 99)).all()
    assert (crop[:, 0, 1] == np.clip(np.arange(top, top + side), 0, 79)).all()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10.0, 10.0, 20.0, 20.0), True),
        ((-500.0, 10.0, 20.0, 20.0), True),
        ((10.0, 10.0, 3.0, 20.0), False),
        ((10.0, 10.0, -20.0, 20.0), False),
        ((10.0, float("nan"), 20.0, 20.0), False),
        ((10.0, 10.0, float("inf"), 20.0), False),
        ((10.0, 10.0, 1e6, 20.0), False),
    ],
    ids=["plain", "outside", "thin", "negative", "nan", "inf", "huge"],
)
def test_usable(box: tuple[float, float, float, float], expected: bool) -> None:
    assert usable(box, GRADIENT) is expected
