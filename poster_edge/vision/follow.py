"""Looks for faces where they were: the whole picture now and then, in between only the surroundings of known faces.

A whole look takes the time of a VGA picture, a look at one face that of 160 x 160 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from poster_edge.vision.faces import Detector, Face, Image, largest_first

#: Side of the surroundings in sizes of the face, and in pixels as the detector sees them.
_AROUND, _SEEN_PX = 2.2, 160
#: More known faces than this are looked for in the whole picture.
_MOST = 6
#: Distance in sizes of the face, and factor in size, within which what is found is the face that was known.
_NEAR, _ALIKE = 0.6, 1.6


@dataclass(frozen=True)
class _Known:
    """A face as it was last seen, and how far it had moved since the frame before, in px."""

    face: Face
    moved: tuple[float, float] = (0.0, 0.0)

    @property
    def size(self) -> float:
        """Longer side of its box in px."""
        return max(1.0, *self.face.box[2:])

    @property
    def expected(self) -> tuple[float, float]:
        """Where its centre should be now."""
        x, y = self.face.centre
        return x + self.moved[0], y + self.moved[1]


class Follower:
    """A detector for the frames of a video.

    Args:
        detector: finds faces in any picture.
        every_s: seconds of the video between two looks at the whole picture.
    """

    def __init__(self, detector: Detector, every_s: float) -> None:
        self._detector = detector
        self._every_s = every_s
        self._known: list[_Known] = []
        self._whole_s = -np.inf

    def detect(self, bgr: Image, time_s: float, *, continues: bool) -> list[Face]:
        """Find the faces of a frame, the largest first.

        Args:
            bgr: (h, w, 3) picture.
            time_s: the frame's time.
            continues: whether it shows the same scene as the frame before.
        """
        due = not continues or time_s - self._whole_s >= self._every_s or len(self._known) > _MOST
        found = None if due else self._around_all(bgr)
        if found is None:
            self._whole_s = time_s
            found = self._taken(self._detector.detect(bgr), continues)
        self._known = found
        return largest_first([known.face for known in found])

    def _around_all(self, bgr: Image) -> list[_Known] | None:
        """The known faces where they are now; None where one of them is lost."""
        found: list[_Known] = []
        for known in self._known:
            face = self._around(bgr, known)
            if face is None or any(_same(face, other.face) for other in found):
                return None
            found.append(_moved(known, face))
        return found

    def _around(self, bgr: Image, known: _Known) -> Face | None:
        """The face that is where a known one should be."""
        x, y = known.expected
        half = _AROUND / 2 * known.size
        height, width = bgr.shape[:2]
        left, right = (int(np.clip(v, 0, width)) for v in (x - half, x + half))
        top, bottom = (int(np.clip(v, 0, height)) for v in (y - half, y + half))
        if right - left < 2 or bottom - top < 2:
            return None
        scale = _SEEN_PX / (2 * half)
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        part = np.asarray(cv2.resize(bgr[top:bottom, left:right], size, interpolation=way), np.uint8)
        faces = [_placed(face, scale, left, top) for face in self._detector.detect(part)]
        return min((f for f in faces if _fits(f, known)), key=lambda f: _distance(f, known), default=None)

    def _taken(self, faces: list[Face], continues: bool) -> list[_Known]:
        """Faces of a whole look, with the movement of those that were known."""
        before = self._known if continues else []
        out = []
        for face in faces:
            own = min((k for k in before if _fits(face, k)), key=lambda k: _distance(face, k), default=None)
            out.append(_Known(face) if own is None else _moved(own, face))
        return out


def _moved(known: _Known, face: Face) -> _Known:
    (x, y), (before_x, before_y) = face.centre, known.face.centre
    return _Known(face, (x - before_x, y - before_y))


def _placed(face: Face, scale: float, left: int, top: int) -> Face:
    """A face found in a part of the picture, in the whole one's pixels."""
    x, y, w, h = (v / scale for v in face.box)
    marks = face.landmarks
    if marks is not None:
        marks = marks / np.float32(scale) + np.array([left, top], np.float32)
    return replace(face, box=(x + left, y + top, w, h), landmarks=marks)


def _distance(face: Face, known: _Known) -> float:
    (x, y), (ahead_x, ahead_y) = face.centre, known.expected
    return float(np.hypot(x - ahead_x, y - ahead_y)) / known.size


def _fits(face: Face, known: _Known) -> bool:
    ratio = max(1.0, *face.box[2:]) / known.size
    return 1 / _ALIKE < ratio < _ALIKE and _distance(face, known) < _NEAR


def _same(one: Face, other: Face) -> bool:
    """Whether the centre of each lies near the other's: two known faces that have become one."""
    (x, y), (a, b) = one.centre, other.centre
    return float(np.hypot(x - a, y - b)) < 0.3 * max(*one.box[2:], *other.box[2:])
