"""Faces are looked for where they were: what is looked at, what is found, and when the whole picture is searched."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from poster_edge.pipeline.continuity import Continuity
from poster_edge.pipeline.video import video_frames
from poster_edge.vision.faces import Face, Image, largest_first
from poster_edge.vision.follow import Follower
from poster_edge.vision.yunet import MODEL_NAME, YuNet

WIDTH, HEIGHT = 640, 480


class Blobs:
    """Finds bright blobs, and remembers how many pixels it looked at."""

    name = "blobs"

    def __init__(self) -> None:
        self.looks: list[int] = []

    def detect(self, bgr: Image, *, fine: bool = False) -> list[Face]:
        self.looks.append(bgr.shape[0] * bgr.shape[1])
        _, _, found, _ = cv2.connectedComponentsWithStats((bgr[:, :, 0] > 127).astype(np.uint8))
        return largest_first([Face(tuple(float(v) for v in row[:4]), 0.9) for row in found[1:]])  # type: ignore[arg-type]


def scene(*faces: tuple[float, float, float]) -> Image:
    """White ellipses around centres, of a height each."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for x, y, size in faces:
        cv2.ellipse(image, (round(x), round(y)), (round(0.4 * size), round(size / 2)), 0, 0, 360, (255,) * 3, -1)
    return image


def wholes(blobs: Blobs) -> int:
    return sum(look == WIDTH * HEIGHT for look in blobs.looks)


def test_the_whole_picture_is_searched_now_and_then_and_boxes_stay_right() -> None:
    blobs, oracle = Blobs(), Blobs()
    follower = Follower(blobs, 0.5)
    for index in range(50):
        image = scene((100 + 6 * index, 150, 90), (500, 100 + 4 * index, 60 + index))
        found = follower.detect(image, index / 25, continues=index > 0)
        assert len(found) == 2
        # By their places: two of nearly one size may come in either order.
        both = (sorted(faces, key=lambda f: f.box) for faces in (found, oracle.detect(image)))
        for face, true in zip(*both, strict=True):
            assert face.box == pytest.approx(true.box, abs=2)
    assert wholes(blobs) == 4
    assert max(look for look in blobs.looks if look != WIDTH * HEIGHT) <= 161 * 161


def test_a_new_face_is_seen_at_the_next_whole_look() -> None:
    follower, known = Follower(Blobs(), 0.2), (200, 200, 80)
    counts = []
    for index in range(10):
        image = scene(known, (500, 300, 90)) if index > 1 else scene(known)
        counts.append(len(follower.detect(image, index / 25, continues=index > 0)))
    assert counts == [1] * 5 + [2] * 5


@pytest.mark.parametrize("case", ["gone", "jumped", "shrunk", "cut"])
def test_a_face_that_is_not_where_it_was_is_looked_for_everywhere(case: str) -> None:
    blobs = Blobs()
    follower = Follower(blobs, 10)
    for index in range(3):
        follower.detect(scene((200, 200, 80)), index / 25, continues=index > 0)
    assert wholes(blobs) == 1
    after = {"gone": (), "jumped": ((500, 300, 80),), "shrunk": ((200, 200, 30),), "cut": ((200, 200, 80),)}[case]
    found = follower.detect(scene(*after), 0.12, continues=case != "cut")
    assert wholes(blobs) == 2
    assert [f.centre for f in found] == [pytest.approx((x, y), abs=1) for x, y, _ in after]


def test_without_a_face_nothing_is_looked_at_in_between() -> None:
    blobs = Blobs()
    follower = Follower(blobs, 0.2)
    for index in range(25):
        assert follower.detect(scene(), index / 25, continues=index > 0) == []
    assert wholes(blobs) == len(blobs.looks) == 5


def test_many_faces_are_cheaper_to_find_all_at_once() -> None:
    blobs = Blobs()
    follower = Follower(blobs, 10)
    image = scene(*((60 + 80 * i, 240, 60) for i in range(7)))
    for index in range(5):
        assert len(follower.detect(image, index / 25, continues=index > 0)) == 7
    assert wholes(blobs) == len(blobs.looks) == 5


def test_two_that_become_one_are_looked_at_again() -> None:
    blobs = Blobs()
    follower = Follower(blobs, 10)
    follower.detect(scene((200, 200, 80), (290, 200, 80)), 0, continues=False)
    assert len(follower.detect(scene((240, 200, 80)), 0.04, continues=True)) == 1
    assert wholes(blobs) == 2


def test_faces_at_the_border_and_out_of_it() -> None:
    follower, oracle = Follower(Blobs(), 10), Blobs()
    for index in range(40):
        image = scene((600 + 3 * index, 20, 90))
        found, expected = follower.detect(image, index / 25, continues=index > 0), oracle.detect(image)
        assert len(found) == len(expected)
        for face, true in zip(found, expected, strict=True):
            assert face.box == pytest.approx(true.box, abs=3)


def test_yunet_follows_people_through_a_clip(shared: Path, media: Path) -> None:
    """All faces of a clip with cuts, pans and zooms, where looking everywhere finds them."""
    yunet = YuNet(shared / "models" / MODEL_NAME)
    follower, continuity = Follower(yunet, 0.2), Continuity()
    looked, missed = 0, 0
    for frame in video_frames(media / "panzoom_640x480_25fps.mp4", report=print):
        found = follower.detect(frame.image, frame.time_s, continues=continuity.update(frame))
        for face in yunet.detect(frame.image):
            near = [np.hypot(*np.subtract(face.centre, f.centre)) for f in found]
            looked += 1
            missed += min(near, default=np.inf) > 0.15 * face.box[3]
    assert looked > 200
    assert missed <= 2
