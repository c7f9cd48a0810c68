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
#: Seconds that a track waits for its face.
PATIENCE_S = 1.0
#: Seconds over which a face is expected to go on as it moved; its movement is known no better.
_FORESIGHT_S = 0.3
#: Share of the newest measurement in a track's velocity.
_FRESH = 0.4


@dataclass(eq=False)
class _Track:
    """A face's last place: centre and size in px, velocity in px a second."""

    number: int
    x: float
    y: float
    size: float
    seen_s: float
    velocity: tuple[float, float] = (0.0, 0.0)

    def at(self, time_s: float) -> tuple[float, float]:
        """Where its centre is expected."""
        ahead = min(time_s - self.seen_s, _FORESIGHT_S)
        return self.x + ahead * self.velocity[0], self.y + ahead * self.velocity[1]

    def move(self, place: tuple[float, float, float], time_s: float) -> None:
        """Take the place where its face was found."""
        x, y, size = place
        passed = time_s - self.seen_s
        if passed > 0:
            along, down = self.velocity
            self.velocity = (
                along + _FRESH * ((x - self.x) / passed - along),
                down + _FRESH * ((y - self.y) / passed - down),
            )
        self.x, self.y, self.size, self.seen_s = x, y, size, time_s


class Tracker:
    """Gives the faces of successive frames numbers, each its own as long as it is seen."""

    def __init__(self, *, patience_s: float = PATIENCE_S, reach: float = REACH) -> None:
        """Begin with no tracks.

        Args:
            patience_s: seconds after which a face that comes back is a new one.
            reach: largest distance of a face from its track, in sizes of the face.
        """
        self._patience_s = patience_s
        self._reach = reach
        self._tracks: list[_Track] = []
        self._count = 0

    def update(self, faces: Sequence[Face], time_s: float) -> list[int]:
        """Numbers of a frame's faces, 1 first; frames come in the order of their time.

        Args:
            faces: that were found.
            time_s: the frame's time; one that is earlier than the last begins anew.
        """
        self._tracks = [t for t in self._tracks if 0 <= time_s - t.seen_s <= self._patience_s]
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

    def forget(self) -> None:
        """End all tracks: what comes has nothing to do with what was."""
        self._tracks = []

    def _pairs(self, places: list[tuple[float, float, float]], time_s: float) -> list[tuple[float, int, _Track]]:
        """(distance, face, track) of all that are within reach of each other."""
        pairs = []
        for track in self._tracks:
            ahead = track.at(time_s)
            for which, (x, y, size) in enumerate(places):
                mean = math.sqrt(size * track.size)
                distance = math.hypot(x - ahead[0], y - ahead[1]) / mean + abs(math.log(size / track.size))
                if distance <= self._reach:
                    pairs.append((distance, which, track))
        return pairs


def _place(face: Face) -> tuple[float, float, float]:
    """Centre and size of a face's box, in px."""
    x, y, w, h = face.box
    return x + w / 2, y + h / 2, max(1.0, math.sqrt(max(0.0, w * h)))
