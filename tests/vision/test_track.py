"""Numbers of faces: kept while a face is seen, never given twice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from poster_edge.vision.faces import Face
from poster_edge.vision.track import PATIENCE_S, Tracker

RATE = 25


def face(x: float, y: float, size: float = 100.0) -> Face:
    """A face of a size around a centre."""
    return Face((x - size / 2, y - size / 2, size, size), 0.9)


def test_a_moving_face_keeps_its_number_in_whatever_order_the_faces_come() -> None:
    tracker, seen = Tracker(), []
    for frame in range(50):
        left, right = face(100 + 4 * frame, 200), face(500, 200 + 2 * frame, 100 + frame)
        order = [left, right] if frame % 2 else [right, left]
        numbers = tracker.update(order, frame / RATE)
        seen.append(numbers if frame % 2 else numbers[::-1])
    assert len({tuple(numbers) for numbers in seen}) == 1
    assert len(set(seen[0])) == 2


def test_two_that_pass_each_other_keep_their_numbers() -> None:
    """They meet at nearly the same height; each goes on as it moved."""
    tracker = Tracker()
    for frame in range(60):
        a, b = face(100 + 8 * frame, 200, 90), face(580 - 8 * frame, 215, 110)
        numbers = tracker.update([a, b], frame / RATE)
        assert numbers == [1, 2], frame


@pytest.mark.parametrize("rate", [5, 10, 25, 60])
def test_the_frame_rate_does_not_matter(rate: int) -> None:
    """A face that moves by three times its width in a second."""
    tracker = Tracker()
    numbers = [tracker.update([face(300 * frame / rate, 200)], frame / rate)[0] for frame in range(2 * rate)]
    assert set(numbers) == {1}


@pytest.mark.parametrize(("away_s", "same"), [(0.5 * PATIENCE_S, True), (1.5 * PATIENCE_S, False)])
def test_a_face_that_is_not_seen_for_a_while(away_s: float, same: bool) -> None:
    tracker = Tracker()
    (before,) = tracker.update([face(300, 200)], 0.0)
    assert tracker.update([], 0.1) == []
    (after,) = tracker.update([face(310, 200)], away_s)
    assert (after == before) is same
    assert after in {1, 2}


@pytest.mark.parametrize("apart_s", [1.2, 5.0])
def test_frames_further_apart_than_that_are_followed_too(apart_s: float) -> None:
    """From the second pair on: before, nobody can tell a slow source from one that was away."""
    tracker = Tracker()
    numbers = [tracker.update([face(300 + frame, 200)], apart_s * frame)[0] for frame in range(6)]
    assert len(set(numbers[1:])) == 1
    (away,) = tracker.update([face(306, 200)], 5 * apart_s + 3 * apart_s)
    assert away not in numbers


@pytest.mark.parametrize("late_s", [0.0, 0.028, 0.0328])
def test_frames_stamped_nearly_at_once_tell_no_speed(late_s: float) -> None:
    """As a camera's are after a stall: every tenth is taken late, the next in time."""
    tracker = Tracker()
    for frame in range(90):
        stamp = frame / 30 + (late_s if frame % 10 == 0 else 0)
        assert tracker.update([face(100 + 400 * frame / 30, 200, 80)], stamp) == [1], frame


def test_a_face_that_was_missed_is_expected_where_it_was_going() -> None:
    tracker = Tracker()
    for frame in range(10):
        tracker.update([face(100 + 5 * frame, 200, 90), face(500, 300, 60)], frame / RATE)
        assert tracker.unseen() == []
    tracker.update([face(500, 300, 60)], 10 / RATE)
    (missed,) = tracker.unseen()
    assert missed.box == pytest.approx((105, 155, 90, 90), abs=2)
    tracker.update([face(500, 300, 60)], 9 / RATE + 1.1 * PATIENCE_S)
    assert tracker.unseen() == []


def test_what_is_far_away_or_of_another_size_is_somebody_else() -> None:
    tracker = Tracker()
    assert tracker.update([face(300, 200)], 0.0) == [1]
    assert tracker.update([face(400, 200)], 0.04) == [2]
    assert tracker.update([face(400, 200, 250)], 0.08) == [3]


def test_nearest_first_and_one_face_a_track() -> None:
    tracker = Tracker()
    tracker.update([face(300, 200)], 0.0)
    assert tracker.update([face(340, 200), face(305, 200)], 0.04) == [2, 1]


def test_forgotten_numbers_and_time_that_goes_back_do_not_come_again() -> None:
    tracker = Tracker()
    assert tracker.update([face(300, 200)], 5.0) == [1]
    tracker.forget()
    assert tracker.waiting == set()
    assert tracker.update([face(300, 200)], 5.04) == [2]
    assert tracker.update([face(300, 200)], 0.0) == [3]
    assert tracker.waiting == {3}


def test_a_detectors_jitter_and_misses() -> None:
    """Six faces, boxes off by some percent, each missed one time in ten: no number changes, none is swapped."""
    random = np.random.default_rng(0)
    tracker = Tracker()
    centres = [(120 + 200 * column, 150 + 200 * row) for row, column in itertools.product(range(2), range(3))]
    known: dict[int, int] = {}
    for frame in range(500):
        faces, who = [], []
        for person, (x, y) in enumerate(centres):
            if frame and random.random() < 0.1:
                continue
            sway = 40 * math.sin(frame / 30 + person)
            dx, dy = random.normal(0, 3, 2)
            faces.append(face(x + sway + dx, y + dy, 100 * math.exp(random.normal(0, 0.04))))
            who.append(person)
        for person, number in zip(who, tracker.update(faces, frame / RATE), strict=True):
            assert known.setdefault(person, number) == number
    assert sorted(known.values()) == list(range(1, 7))


def test_a_box_without_area_is_taken() -> None:
    tracker = Tracker()
    assert tracker.update([Face((5.0, 5.0, 0.0, 0.0), 0.5)], 0.0) == [1]
    assert tracker.update([Face((5.0, 5.0, 0.0, 0.0), 0.5)], 0.0) == [1]
