"""Whether a measurement can be believed: load of others, stolen time, clocks, throttling, and a fixed piece of work.

Nothing here is corrected for: a run that was disturbed is marked, with the reasons, and is to be repeated.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from poster_edge.bench.environment import usable_cores
from poster_edge.bench.load import Accounts, read_accounts
from poster_edge.bench.state import State, read_clocks, read_state, throttling
from poster_edge.bench.sysfs import ROOT

#: Bytes that the fixed piece of work hashes: a few milliseconds on any processor.
_WORK = bytes(1 << 20)
_REPEATS = 4


@dataclass(frozen=True)
class Limits:
    """From where on a run counts as noisy.

    Attributes:
        foreign_cores: processors that others kept busy; a fiftieth of the machine's is allowed at least.
        stolen: share of the processors' time that the host gave to others.
        spread: of the fixed work's times, p90 over p10, minus 1.
        drift: of the fixed work's median, last third of the rounds over the first, minus 1, either way.
        clocks: of the fastest clock of each device between rounds, highest over lowest, minus 1.
    """

    foreign_cores: float = 0.1
    stolen: float = 0.02
    spread: float = 0.25
    drift: float = 0.08
    clocks: float = 0.05


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Noise:
    """What disturbed a run.

    Attributes:
        reasons: why the run is noisy, in words; empty when nothing was seen.
        unchecked: what could not be looked at on this machine.
        foreign_cores: processors that other processes kept busy, mean over the run.
        stolen: share of the processors' time that went to other virtual machines.
        work_ms: median of the fixed piece of work.
        spread: see :class:`Limits`.
        drift: see :class:`Limits`.
        clocks_mhz: clock -> (lowest, highest) between rounds.
        before, after: the device's state.
    """

    reasons: tuple[str, ...]
    unchecked: tuple[str, ...]
    foreign_cores: float | None
    stolen: float | None
    work_ms: float
    spread: float
    drift: float
    clocks_mhz: dict[str, tuple[float, float]]
    before: State
    after: State

    @property
    def noisy(self) -> bool:
        """Whether the figures should not be believed."""
        return bool(self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"noisy": self.noisy, **asdict(self)}


def fixed_work_ms() -> float:
    """Time of a piece of work that never changes, on one processor, in ms."""
    began = time.perf_counter()
    for _ in range(_REPEATS):
        hashlib.sha256(_WORK).digest()
    return 1e3 * (time.perf_counter() - began)


@dataclass
class Watch:
    """Looks at the machine before, between and after the rounds of a run.

    Attributes:
        pids: of the processes that measure, this one included.
        gpu: whether what is measured uses one; else its clock may do what it likes.
        root: where /proc and /sys lie.
        limits: from where on the run is noisy.
    """

    pids: list[int]
    gpu: bool = False
    root: Path = ROOT
    limits: Limits = DEFAULT_LIMITS
    _work: list[float] = field(default_factory=list)
    _clocks: dict[str, list[float]] = field(default_factory=dict)

    def start(self) -> None:
        """Take the first look; the timed part follows."""
        self._before = read_state(self.root)
        fixed_work_ms()
        self._accounts, self._began = read_accounts(self.pids, self.root), time.perf_counter()

    def round_done(self) -> None:
        """Look at the clocks while the processor is still warm, and do the fixed work."""
        for name, value in read_clocks(self.root).items():
            self._clocks.setdefault(name, []).append(value)
        self._work.append(fixed_work_ms())

    def stop(self) -> Noise:
        """Take the last look, before the measuring processes end, and judge."""
        elapsed, accounts = time.perf_counter() - self._began, read_accounts(self.pids, self.root)
        cores = len(usable_cores(self.root))
        foreign, stolen = _shares(self._accounts, accounts, elapsed, cores)
        return judge(
            work=self._work,
            clocks=self._clocks,
            foreign_cores=foreign,
            stolen=stolen,
            cores=cores,
            states=(self._before, read_state(self.root)),
            gpu=self.gpu,
            limits=self.limits,
        )


def _shares(
    before: Accounts | None, after: Accounts | None, elapsed: float, cores: int
) -> tuple[float | None, float | None]:
    if before is None or after is None or elapsed <= 0:
        return None, None
    # The accounts count in ticks of 10 ms, and each is read at a moment of its own: a little below zero is zero.
    others = (after.busy - before.busy) - (after.own - before.own)
    return max(0.0, others / elapsed), max(0.0, (after.stolen - before.stolen) / elapsed / cores)


def judge(
    *,
    work: list[float],
    clocks: dict[str, list[float]],
    foreign_cores: float | None,
    stolen: float | None,
    cores: int,
    states: tuple[State, State],
    gpu: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Noise:
    """Decide from what was seen whether a run is noisy.

    Args:
        work: ms of the fixed work after each round.
        clocks: clock -> MHz after each round.
        foreign_cores: processors that others kept busy, None where unknown.
        stolen: share of time taken by the host, None where unknown.
        cores: processors that could be used.
        states: of the device before and after.
        gpu: whether the clocks of other devices than processors count.
        limits: from where on it is noisy.
    """
    reasons, unchecked = [], []
    allowed = max(limits.foreign_cores, cores / 50)
    if foreign_cores is None or stolen is None:
        unchecked.append("load of other processes and stolen time (no /proc/stat)")
    else:
        if foreign_cores > allowed:
            reasons.append(f"other processes kept {foreign_cores:.2f} processors busy (allowed: {allowed:.2f})")
        if stolen > limits.stolen:
            reasons.append(
                f"the host gave {stolen:.1%} of the processors' time to others (allowed: {limits.stolen:.0%})"
            )
    spread, drift = _spread(work), _drift(work)
    if spread > limits.spread:
        reasons.append(f"a fixed piece of work took between 1 and {1 + spread:.2f} times as long from round to round")
    if abs(drift) > limits.drift:
        reasons.append(f"a fixed piece of work took {drift:+.0%} at the end of the run: the clock moved")
    if not clocks:
        unchecked.append("clocks (the kernel shows none)")
    if not any((states[1].temperatures_c, states[1].cooling, states[1].counters)):
        unchecked.append("temperatures and throttling (the kernel shows none)")
    ranges = {name: (min(values), max(values)) for name, values in clocks.items()}
    reasons += _moved(clocks, limits.clocks, gpu=gpu)
    return Noise(
        reasons=(*reasons, *throttling(*states)),
        unchecked=tuple(unchecked),
        foreign_cores=foreign_cores,
        stolen=stolen,
        work_ms=float(np.median(work)) if work else float("nan"),
        spread=spread,
        drift=drift,
        clocks_mhz=ranges,
        before=states[0],
        after=states[1],
    )


def _spread(work: list[float]) -> float:
    if len(work) < 5:
        return 0.0
    low, high = np.percentile(work, [10, 90])
    return float(high / low - 1)


def _drift(work: list[float]) -> float:
    third = len(work) // 3
    if third < 3:
        return 0.0
    return float(np.median(work[-third:]) / np.median(work[:third]) - 1)


def _moved(clocks: dict[str, list[float]], limit: float, *, gpu: bool) -> list[str]:
    """Processors whose clock moved, taken together: the scheduler may have used another one in each round."""
    cpus = [values for name, values in clocks.items() if name.startswith("cpu")]
    devices = {name: values for name, values in clocks.items() if gpu and not name.startswith("cpu")}
    fastest = {"processors": [max(v) for v in zip(*cpus, strict=False)]} if cpus else {}
    found = []
    for name, values in {**fastest, **devices}.items():
        # A tenth at either end may be a look at the wrong moment.
        low, high = np.percentile(values, [10, 90])
        if high > (1 + limit) * low:
            found.append(f"the clock of the {name} moved between {low:.0f} and {high:.0f} MHz")
    return found
