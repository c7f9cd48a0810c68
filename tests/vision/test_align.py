"""Crops: framing, edges of the picture, degenerate boxes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from poster_edge.config import Preprocess
from poster_edge.vision.align import crop_face, crop_square, crop_upright, tilt, usable
from poster_edge.vision.faces import Face

GRADIENT = np.stack(np.meshgrid(np.arange(100), np.arange(80), [7]), axis=-1).astype(np.uint8).reshape(80, 100, 3)


@pytest.mark.parametrize(
    ("margin", "shift", "expected"),
    [(0.0, 0.0, (25, 20, 40)), (0.5, 0.0, (15, 10, 60)), (-0.25, 0.0, (30, 25, 30)), (0.0, 0.25, (25, 30, 40))],
    ids=["tight", "wide", "inner", "lowered"],
)
def test_square_frames_the_longer_side(margin: float, shift: float, expected: tuple[int, int, int]) -> None:
    assert crop_square((30.0, 20.0, 30.0, 40.0), Preprocess(margin=margin, shift_y=shift)) == expected


def test_crop_inside_is_the_pictures_own_pixels() -> None:
    crop = crop_face(GRADIENT, Face((30.0, 20.0, 30.0, 40.0), 1.0), Preprocess(margin=0.0))
    np.testing.assert_array_equal(crop, GRADIENT[20:60, 25:65])


@pytest.mark.parametrize(
    "box",
    [(-15.0, 10.0, 30.0, 30.0), (85.0, 60.0, 30.0, 30.0), (-10.0, -10.0, 130.0, 110.0), (300.0, -200.0, 20.0, 20.0)],
    ids=["left", "corner", "all-sides", "wholly-outside"],
)
def test_outside_repeats_the_edge(box: tuple[float, float, float, float]) -> None:
    preprocess = Preprocess(margin=0.0)
    crop = crop_face(GRADIENT, Face(box, 1.0), preprocess)
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


#: Eyes, nose and mouth of an upright face in the box (30, 30, 40, 40).
POINTS = np.array([[42, 44], [58, 44], [50, 52], [44, 60], [56, 60]], np.float32)

#: Eyes of a profile: one before the other.
SQUEEZE = np.array([0.1, 1], np.float32)


def turned(angle: float) -> Face:
    """That face turned clockwise around its middle."""
    matrix = cv2.getRotationMatrix2D((50, 52), -angle, 1)
    return Face((30.0, 30.0, 40.0, 40.0), 0.9, (POINTS @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32))


@pytest.mark.parametrize("angle", [0, 30, -45, 90])
def test_tilt_is_the_eye_lines(angle: float) -> None:
    assert tilt(turned(angle)) == pytest.approx(angle, abs=0.01)


@pytest.mark.parametrize("angle", [30, -45])
def test_a_tilted_face_comes_out_upright(angle: float) -> None:
    upright = np.full((100, 100, 3), 90, np.uint8)
    for x, y in POINTS:
        cv2.circle(upright, (round(float(x)), round(float(y))), 4, (250, 250, 250), -1)
    matrix = cv2.getRotationMatrix2D((50, 52), -angle, 1)
    picture = np.asarray(cv2.warpAffine(upright, matrix, (100, 100), borderMode=cv2.BORDER_REPLICATE), np.uint8)
    preprocess = Preprocess(margin=0.0)
    crop = crop_face(picture, turned(angle), preprocess).astype(int)
    wanted = crop_upright(upright, (30.0, 30.0, 40.0, 40.0), preprocess).astype(int)
    assert np.abs(crop - wanted).mean() < 8 < np.abs(picture[30:70, 30:70].astype(int) - wanted).mean()


def test_a_slight_tilt_and_a_profile_are_left_alone() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    profile = Face((30.0, 30.0, 40.0, 40.0), 0.9, POINTS * SQUEEZE + np.array([45, 0], np.float32))
    assert tilt(profile) == 0
    for face in (turned(4), profile):
        np.testing.assert_array_equal(crop_face(picture, face, Preprocess(margin=0.0)), picture[30:70, 30:70])


def test_a_tilted_face_outside_the_picture() -> None:
    face = turned(30)
    assert face.landmarks is not None
    away = Face((430.0, -330.0, 40.0, 40.0), 0.9, face.landmarks + np.array([400, -360], np.float32))
    assert crop_face(GRADIENT, away, Preprocess(margin=0.0)).shape == (40, 40, 3)
