"""Which face of a frame is which of the frame before: by place and size alone, nothing of the face itself is kept.

A track is a number and a place that moves.  Faces and tracks are paired by a distance in widths of a face, nearest
first; a face that is near no track begins a new one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from poster_edge.vision.faces import Face

#: Distance of a pair, in sizes of a face plus the logarithm of the sizes' ratio, that is one face's at most.
REACH = 0.75
#: Seconds that a track waits for its face, where frames come faster than that.
PATIENCE_S = 1.0
#: Seconds over which a face is expected to go on as it moved; its movement is known no better.
_FORESIGHT_S = 0.3
#: Seconds over which a track's velocity is averaged: of two frames taken nearly at once, nothing can be told.
_SETTLE_S = 0.08


#: Centre, size and sides of a face's box, in px.
_Place = tuple[float, float, float, tuple[float, float]]


@dataclass(eq=False)
class _Track:
    """A face's last place: centre, size and the box's sides in px, velocity in px a second."""

    number: int
    x: float
    y: float
    size: float
    sides: tuple[float, float]
    seen_s: float
    velocity: tuple[float, float] = (0.0, 0.0)

    def at(self, time_s: float) -> tuple[float, float]:
        """Where its centre is expected."""
        ahead = min(time_s - self.seen_s, _FORESIGHT_S)
        return self.x + ahead * self.velocity[0], self.y + ahead * self.velocity[1]

    def move(self, place: _Place, time_s: float) -> None:
        """Take the place where its face was found."""
        x, y, size, self.sides = place
        passed = time_s - self.seen_s
        if passed > 0:
            fresh, (along, down) = 1 - math.exp(-passed / _SETTLE_S), self.velocity
            self.velocity = (
                along + fresh * ((x - self.x) / passed - along),
                down + fresh * ((y - self.y) / passed - down),
            )
        self.x, self.y, self.size, self.seen_s = x, y, size, time_s


class Tracker:
    """Gives the faces of successive frames numbers, each its own as long as it is seen."""

    def __init__(self, *, patience_s: float = PATIENCE_S, reach: float = REACH) -> None:
        """Begin with no tracks.

        Args:
            patience_s: seconds after which a face that comes back is a new one; where frames are further apart,
                twice the time between the last two.
            reach: largest distance of a face from its track, in sizes of the face.
        """
        self._patience_s = patience_s
        self._reach = reach
        self._tracks: list[_Track] = []
        self._count = 0
        self._now_s = self._gap_s = 0.0

    def update(self, faces: Sequence[Face], time_s: float) -> list[int]:
        """Numbers of a frame's faces, 1 first; frames come in the order of their time.

        Args:
            faces: that were found.
            time_s: the frame's time; one that is earlier than the last begins anew.
        """
        patience_s = max(self._patience_s, 2 * self._gap_s)
        self._tracks = [t for t in self._tracks if 0 <= time_s - t.seen_s <= patience_s]
        self._gap_s, self._now_s = time_s - self._now_s, time_s
        places = [_place(face) for face in faces]
        found: dict[int, _Track] = {}
        free = list(self._tracks)
        for _, which, track in sorted(self._pairs(places, time_s), key=lambda pair: pair[:2]):
            if which not in found and track in free:
                free.remove(track)
                found[which] = track
                track.move(places[which], time_s)
        for which, place in enumerate(places):
            if which not in found:
                self._count += 1
                found[which] = _Track(self._count, *place, seen_s=time_s)
                self._tracks.append(found[which])
        return [found[which].number for which in range(len(places))]

    @property
    def waiting(self) -> set[int]:
        """Numbers that a face may still get, those of the last frame among them."""
        return {track.number for track in self._tracks}

    def unseen(self) -> list[Face]:
        """Where the faces are expected that were not found in the last frame, and may still be there; score 0."""
        out = []
        for track in self._tracks:
            if track.seen_s < self._now_s:
                (x, y), (w, h) = track.at(self._now_s), track.sides
                out.append(Face((x - w / 2, y - h / 2, w, h), 0.0))
        return out

    def forget(self) -> None:
        """End all tracks: what comes has nothing to do with what was."""
        self._tracks = []

    def _pairs(self, places: list[_Place], time_s: float) -> list[tuple[float, int, _Track]]:
        """(distance, face, track) of all that are within reach of each other."""
        pairs = []
        for track in self._tracks:
            ahead = track.at(time_s)
            for which, (x, y, size, _) in enumerate(places):
                mean = math.sqrt(size * track.size)
                distance = math.hypot(x - ahead[0], y - ahead[1]) / mean + abs(math.log(size / track.size))
                if distance <= self._reach:
                    pairs.append((distance, which, track))
        return pairs


def _place(face: Face) -> _Place:
    w, h = face.box[2:]
    return *face.centre, max(1.0, math.sqrt(max(0.0, w * h))), (w, h)
