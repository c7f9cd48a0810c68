"""Energy of the candidates of a benchmark: each works alone for a while, after the timed part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from poster_edge.bench.energy import EnergyReport, Recording, idle_watts
from poster_edge.bench.energy_meters import Rail

#: Seconds of rest before the first candidate, and that each works.  NVIDIA's driver wants ten or more.
REST_S, WORK_S = 3.0, 10.0
#: Calls are made in turns of about this long, so that the other processes' answers do not matter.
_TURN_S = 0.5


class Energy:
    """Measures one candidate after the other against the same rest.

    Args:
        rails: what is metered.
        rest_s, work_s: seconds.
    """

    def __init__(self, rails: Sequence[Rail], *, rest_s: float = REST_S, work_s: float = WORK_S) -> None:
        self._rails, self._rest_s, self._work_s = rails, rest_s, work_s
        self._idle: dict[str, float] | None = None

    def of(self, turn: Callable[[int], NDArray[np.float64]], *, faces_per_call: float) -> EnergyReport:
        """Energy of calls.

        Args:
            turn: makes some calls and returns their ms.
            faces_per_call: faces that a call works on, the mean where it varies.
        """
        if self._idle is None:
            # All candidates are loaded and wait by now, as they do while another one works.
            self._idle = idle_watts(self._rails, seconds=self._rest_s)
        calls, done, worked_s = 1, 0, 0.0
        with Recording(self._rails) as recording:
            while worked_s < self._work_s:
                times = turn(calls)
                # A turn makes one call that it does not time.
                done += calls + 1
                worked_s += float(times.sum() + np.median(times)) / 1e3
                calls = max(1, int(1e3 * _TURN_S / max(float(np.median(times)), 1e-3)))
        return recording.report(faces=round(done * faces_per_call), idle=self._idle)
