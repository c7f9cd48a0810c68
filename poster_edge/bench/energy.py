"""Energy of a piece of work: rails sampled by a thread, integrated, and what idling would have taken subtracted.

rails = find_rails()
idle = idle_watts(rails, seconds=3)
with Recording(rails) as recording:
    ...
report = recording.report(faces=500, idle=idle)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from poster_edge.bench.energy_meters import Rail, describe
from poster_edge.errors import PosterEdgeError

#: Seconds between two samples; the chips average over about as long.
INTERVAL_S = 0.05
#: NVIDIA's driver refreshes its figures about ten times a second; shorter windows say little.
_SHORT_S = {"NVML": 10.0, "RAPL": 0.5, "INA3221": 1.0}
_SHORT_DEFAULT_S = 1.0


@dataclass(frozen=True)
class RailEnergy:
    """Energy of one rail over a window.

    Attributes:
        name: of the rail.
        meter: what measured it.
        joules: over the window.
        watts: mean.
        idle_watts: mean at rest, None where that was not measured.
        whole: whether it is part of the totals.
    """

    name: str
    meter: str
    joules: float
    watts: float
    idle_watts: float | None
    whole: bool


@dataclass(frozen=True)
class EnergyReport:
    """What a window took.

    Attributes:
        seconds: length of the window.
        samples: readings of each rail.
        rails: every rail.
        total: rails that the totals add up, in words.
        gross_joules: of the whole device.
        net_joules: without what it takes at rest in the same time; None where that was not measured.
        faces: worked on in the window, 0 where nothing was counted.
        notes: what makes the figures doubtful.
    """

    seconds: float
    samples: int
    rails: tuple[RailEnergy, ...]
    total: str
    gross_joules: float
    net_joules: float | None
    faces: int
    notes: tuple[str, ...] = ()

    @property
    def gross_per_face(self) -> float | None:
        """J per face, idle power included."""
        return self.gross_joules / self.faces if self.faces else None

    @property
    def net_per_face(self) -> float | None:
        """J per face on top of idling."""
        return self.net_joules / self.faces if self.faces and self.net_joules is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, J per face included."""
        per_face = {"gross_joules_per_face": self.gross_per_face, "net_joules_per_face": self.net_per_face}
        return {**asdict(self), **per_face}


@dataclass
class _Sum:
    """Running integral of one rail."""

    rail: Rail
    joules: float = 0.0
    samples: int = 0
    lost: int = 0
    first_s: float | None = None
    last: tuple[float, float] | None = None

    @property
    def span_s(self) -> float:
        """From the first reading to the last."""
        return self.last[0] - self.first_s if self.last and self.first_s is not None else 0.0

    @property
    def watts(self) -> float:
        """Mean power over that span."""
        return self.joules / self.span_s if self.span_s else 0.0

    def add(self, now: float, value: float | None) -> None:
        """Take a reading: trapezoids of power, differences of a counter, one wrap between two readings at most."""
        if value is None:
            self.lost += 1
            return
        if self.last is not None:
            then, before = self.last
            if not self.rail.counts:
                self.joules += (now - then) * (before + value) / 2
            elif value >= before:
                self.joules += value - before
            else:
                self.joules += value - before + self.rail.wraps_at
        else:
            self.first_s = now
        self.last = now, value
        self.samples += 1


class Recording:
    """Samples rails from entering to leaving.

    Args:
        rails: what :func:`poster_edge.bench.energy_meters.find_rails` found.
        interval_s: between two samples.
        clock: gives seconds.

    Raises:
        PosterEdgeError: on leaving, a meter failed while it was read.
    """

    def __init__(
        self,
        rails: Sequence[Rail],
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._sums = [_Sum(rail) for rail in rails]
        self._interval_s, self._clock = interval_s, clock
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="poster-edge-energy", daemon=True)

    def __enter__(self) -> Recording:
        self._began = self._clock()
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is None:
            self.sample()
        self._seconds = self._clock() - self._began
        if self._failure is not None and kind is None:
            raise PosterEdgeError(f"a power meter failed: {self._failure}") from self._failure

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._interval_s):
                self.sample()
        except Exception as error:  # a driver may raise anything; the thread that works must hear of it
            self._failure = error

    def sample(self) -> None:
        """Read every rail once, each at its own moment: a chip behind a slow bus takes a millisecond."""
        for part in self._sums:
            before = self._clock()
            value = part.rail.read()
            part.add((before + self._clock()) / 2, value)

    def watts(self) -> dict[str, float]:
        """Mean power of each rail, by :func:`key`."""
        return {key(p.rail): p.watts for p in self._sums}

    def report(self, *, faces: int, idle: dict[str, float] | None = None) -> EnergyReport:
        """What the window took.

        Args:
            faces: worked on in it.
            idle: of :func:`idle_watts`; None: nothing is subtracted.
        """
        rails = tuple(
            RailEnergy(
                p.rail.name,
                p.rail.meter,
                p.joules,
                p.watts,
                None if idle is None else idle[key(p.rail)],
                p.rail.whole,
            )
            for p in self._sums
        )
        whole = [r for r in rails if r.whole]
        gross = sum(r.joules for r in whole)
        rest = sum(p.span_s * idle[key(p.rail)] for p in self._sums if p.rail.whole) if idle is not None else 0.0
        net = None if idle is None else gross - rest
        return EnergyReport(
            seconds=self._seconds,
            samples=min(p.samples for p in self._sums),
            rails=rails,
            total=describe([p.rail for p in self._sums]),
            gross_joules=gross,
            net_joules=net,
            faces=faces,
            notes=tuple(self._notes(net)),
        )

    def _notes(self, net: float | None) -> list[str]:
        shortest = max(_SHORT_S.get(p.rail.meter, _SHORT_DEFAULT_S) for p in self._sums)
        notes = []
        if self._seconds < shortest:
            notes.append(f"the window of {self._seconds:.1f} s is short for these meters: {shortest:g} s or more")
        if lost := sum(p.lost for p in self._sums):
            notes.append(f"{lost} readings failed and were bridged")
        if net is not None and net < 0:
            notes.append("the device took less than at rest before: it was not at rest then")
        return notes


def key(rail: Rail) -> str:
    """What tells a rail from the others."""
    return f"{rail.name} ({rail.meter})"


def idle_watts(
    rails: Sequence[Rail],
    *,
    seconds: float,
    interval_s: float = INTERVAL_S,
) -> dict[str, float]:
    """Mean power of each rail while this process rests.

    Args:
        rails: see :class:`Recording`.
        seconds: how long.
        interval_s: between two samples.
    """
    with Recording(rails, interval_s=interval_s) as recording:
        time.sleep(seconds)
    return recording.watts()
