"""Honest comparison of latencies: candidates take turns, so that whatever slows the machine slows them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

#: Pause before a turn, in seconds: idle threads of the candidate before go on spinning for a while.
SETTLE_S = 0.03


def turn(
    call: Callable[[], object],
    *,
    calls: int = 1,
    settle_s: float = SETTLE_S,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """Milliseconds of some calls in a row, after a pause and an untimed call: as if it were alone.

    Args:
        call: what to time.
        calls: how many are timed.
        settle_s: the pause, in seconds.
        clock: in seconds, such as ``time.process_time`` for CPU time.
    """
    time.sleep(settle_s)
    call()
    times = np.empty(calls)
    for i in range(calls):
        start = clock()
        call()
        times[i] = 1e3 * (clock() - start)
    return times


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    warmup: int = 5,
    settle_s: float = SETTLE_S,
    budget_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each call of each candidate, one call of every candidate per round.

    All run in this process; :mod:`poster_edge.bench` gives each a process of its own.

    Args:
        candidates: name -> what to time.
        rounds: timed calls of each.
        warmup: untimed calls of each before.
        settle_s: pause before each candidate's turn, in seconds.
        budget_s: stop early, but not before five rounds, when the timed part takes longer.
        clock: see :func:`turn`.
    """
    for call in candidates.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[NDArray[np.float64]]] = {name: [] for name in candidates}
    began = time.perf_counter()
    for done in range(rounds):
        if budget_s is not None and done >= 5 and time.perf_counter() - began > budget_s:
            break
        for name, call in candidates.items():
            times[name].append(turn(call, settle_s=settle_s, clock=clock))
    return {name: np.concatenate(values) if values else np.empty(0) for name, values in times.items()}
