"""Cuts: told from movement, noise, light and darkness."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from poster_edge.vision.cuts import CutDetector
from poster_edge.vision.faces import Image


def scene(seed: int, height: int = 360, width: int = 640) -> Image:
    """A picture of large, soft patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def cut_between(*pictures: Image, apart_s: float = 0.04) -> list[bool]:
    detector = CutDetector()
    return [detector.update(p, index * apart_s) for index, p in enumerate(pictures)][1:]


def test_another_scene_is_a_cut_and_the_same_is_none() -> None:
    assert cut_between(scene(0), scene(0), scene(1), scene(1), scene(0)) == [False, True, False, True]


def test_movement_noise_and_light_are_none() -> None:
    picture = scene(0)
    moved = np.roll(picture, 12, axis=1)
    noise = np.random.default_rng(0).normal(0, 20, picture.shape)
    noisy = np.clip(picture + noise, 0, 255).astype(np.uint8)
    darker, brighter = (picture * 0.4).astype(np.uint8), np.clip(picture * 1.3 + 20, 0, 255).astype(np.uint8)
    assert cut_between(picture, moved, noisy, darker, brighter) == [False] * 4


def test_somebody_who_walks_into_the_picture_is_none() -> None:
    picture, entered = scene(0), scene(0)
    cv2.ellipse(entered, (320, 200), (90, 130), 0, 0, 360, (150, 170, 210), -1)
    assert cut_between(picture, entered) == [False]


@pytest.mark.parametrize("apart_s", [0.0, 0.04, 0.2, 1.0, 60.0])
def test_frames_far_apart_may_differ_more(apart_s: float) -> None:
    """A pan by an eighth of the picture is a cut in a moment, and none after a while; another scene is one always."""
    wide = scene(0, width=960)
    likeness = cut_between(wide[:, :640].copy(), wide[:, 80:720].copy(), apart_s=apart_s)
    assert likeness == [apart_s < 0.1]
    assert cut_between(scene(0), scene(1), apart_s=apart_s) == [True]


def test_a_cut_through_black_is_one() -> None:
    black = np.zeros((360, 640, 3), np.uint8)
    assert cut_between(scene(0), black, scene(1), black, scene(1)) == [False, True, False, False]


def test_darkness_tells_nothing() -> None:
    dark = np.random.default_rng(0).integers(0, 4, (360, 640, 3), np.uint8)
    assert cut_between(dark, dark[::-1], dark) == [False, False]


def test_another_size_is_a_cut() -> None:
    assert cut_between(scene(0), scene(0, 480, 640), scene(0, 480, 640)) == [True, False]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2000, 3)])
def test_any_size_is_taken(size: tuple[int, int]) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    assert cut_between(picture, picture) == [False]
