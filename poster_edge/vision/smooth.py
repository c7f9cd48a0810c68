"""An expression over time: each face's probabilities averaged over the last moments, and a label that does not flicker.

The average weighs what was seen ``age`` seconds ago by exp(-age / seconds), whatever the frame rate, and is the plain
mean of what there is as long as that is little.  Logarithms are averaged: the softmax of the mean logit.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Seconds of the average unless told otherwise.
SECONDS = 0.5
#: Another class must be this much more probable than the label before it takes its place.
MARGIN = 0.1
#: Probabilities below this are taken for it: one frame that is sure does not outvote all others.
_FLOOR = 1e-4


@dataclass
class _History:
    """What is kept of a face: the weighted sum of its log-probabilities (C,), the weight, when, and its label."""

    total: NDArray[np.float64]
    weight: float
    seen_s: float
    label: int


class Smoother:
    """Averages probabilities by track."""

    def __init__(self, seconds: float = SECONDS, *, margin: float = MARGIN) -> None:
        """Begin with nothing seen.

        Args:
            seconds: age at which a frame's weight has fallen to 1/e; above 0.
            margin: lead in probability that another class needs to become the label.
        """
        self._seconds = seconds
        self._margin = margin
        self._known: dict[int, _History] = {}

    def update(self, track: int, row: NDArray[np.float64], time_s: float) -> tuple[int, NDArray[np.float64]]:
        """Take a face's probabilities.

        Args:
            track: its number.
            row: (C,) probabilities of this frame.
            time_s: the frame's time.

        Returns:
            The label's index and the (C,) averaged probabilities.  The label may be another than the most probable
            class, by less than the margin.
        """
        logs = np.log(np.maximum(row, _FLOOR))
        known = self._known.get(track)
        if known is None:
            known = self._known[track] = _History(logs, 1.0, time_s, int(row.argmax()))
        else:
            fade = math.exp(-max(0.0, time_s - known.seen_s) / self._seconds)
            known.total, known.weight = fade * known.total + logs, fade * known.weight + 1.0
            known.seen_s = time_s
        mean = known.total / known.weight
        averaged = np.exp(mean - mean.max())
        averaged /= averaged.sum()
        best = int(averaged.argmax())
        if averaged[best] - averaged[known.label] > self._margin:
            known.label = best
        return known.label, averaged

    def keep(self, tracks: Collection[int]) -> None:
        """Forget all faces but these."""
        self._known = {track: known for track, known in self._known.items() if track in tracks}
