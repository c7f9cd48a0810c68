"""Honest comparison of latencies: candidates take turns, so that whatever slows the machine slows them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    warmup: int = 5,
    settle_s: float = 0.03,
    budget_s: float | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each call of each candidate, one call of every candidate per round.

    Idle threads of the candidate before go on spinning for a while; after a pause and an untimed call
    each candidate is timed as if it were alone.

    Args:
        candidates: name -> what to time.
        rounds: timed calls of each.
        warmup: untimed calls of each before.
        settle_s: pause before each candidate's turn, in seconds.
        budget_s: stop early, but not before five rounds, when the timed part takes longer.
    """
    for call in candidates.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    began = time.perf_counter()
    for done in range(rounds):
        if budget_s is not None and done >= 5 and time.perf_counter() - began > budget_s:
            break
        for name, call in candidates.items():
            time.sleep(settle_s)
            call()
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}
