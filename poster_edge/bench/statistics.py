"""Percentiles that were measured, MLPerf-style early stopping, and the interval of a ratio.

The early-stopping estimate follows the rule of MLPerf's LoadGen for the single stream (MLCommons, "MLPerf
Inference Rules", appendix "Early Stopping Criterion"): with 99 % confidence the true percentile is no larger than
the call that is left when as many of the slowest are discarded as the binomial distribution allows.  These are
not MLPerf results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.99
#: Fewest calls of an early-stopping estimate; the rule gives them, and a test compares.
FEWEST = {0.9: 64, 0.99: 662}
_RESAMPLES = 2000


def percentile(values: NDArray[np.float64], share: float) -> float:
    """The call that a share of all calls is faster than: one that was measured, as LoadGen takes it."""
    return float(np.sort(values)[min(len(values) - 1, int(len(values) * share))])


def discarded(count: int, share: float) -> int | None:
    """How many of the slowest of ``count`` calls early stopping discards; None where there are too few calls.

    The largest t with P(at most t of ``count`` calls are slower than the percentile) below 1 - confidence,
    less the one that is the estimate.
    """
    slower = 1 - share
    # P(X = k), X ~ Binomial(count, slower), from k to k + 1 by its ratio; in logarithms, as (share)^count underflows.
    log_term, total, found = count * math.log(share), 0.0, None
    for k in range(count + 1):
        total += math.exp(log_term)
        if total >= 1 - CONFIDENCE:
            break
        found = k
        if k < count:
            log_term += math.log(count - k) - math.log(k + 1) + math.log(slower) - math.log(share)
    return None if not found else found - 1


def early_stopping(values: NDArray[np.float64], share: float) -> float | None:
    """Upper bound of a percentile with 99 % confidence, in the unit of ``values``; None for too few calls."""
    drop = discarded(len(values), share)
    return None if drop is None else float(np.sort(values)[len(values) - 1 - drop])


@dataclass(frozen=True)
class Ratio:
    """How many times as fast a candidate is as its baseline, with a 95 % interval."""

    value: float
    low: float
    high: float


def speed_ratio(
    baseline: Sequence[NDArray[np.float64]], candidate: Sequence[NDArray[np.float64]], *, seed: int = 0
) -> Ratio:
    """Median time of the baseline over the candidate's, from rounds in which both took their turns.

    Args:
        baseline: times of its calls, an array per round.
        candidate: the same of the candidate, round by round with the baseline's.
        seed: of the bootstrap, which draws whole rounds: what slowed one of the two in a round slowed both.
    """
    pairs = np.array([[np.median(b), np.median(c)] for b, c in zip(baseline, candidate, strict=True)])
    drawn = np.random.default_rng(seed).integers(0, len(pairs), (_RESAMPLES, len(pairs)))
    # rounds x 2 -> resamples x rounds x 2 -> resamples x 2
    medians = np.median(pairs[drawn], axis=1)
    low, high = np.percentile(medians[:, 0] / medians[:, 1], [2.5, 97.5])
    middle = np.median(pairs, axis=0)
    return Ratio(float(middle[0] / middle[1]), float(low), float(high))


@dataclass(frozen=True)
class Summary:
    """Figures of one candidate's calls, in ms.

    Attributes:
        calls: how many were timed.
        mean_ms, p20_ms, p50_ms, p80_ms, p90_ms: of those.
        p90_estimate_ms: MLPerf-style early-stopping estimate; None below 64 calls.
        p99_ms: None below 662 calls: the few slowest of fewer say nothing about one in a hundred.
        p99_estimate_ms: early-stopping estimate of it.
        per_second: images a second, one call after the other.
    """

    calls: int
    mean_ms: float
    p20_ms: float
    p50_ms: float
    p80_ms: float
    p90_ms: float
    p90_estimate_ms: float | None
    p99_ms: float | None
    p99_estimate_ms: float | None
    per_second: float


def summarise(values: NDArray[np.float64], *, batch: int) -> Summary:
    """Summarise times of calls in ms, each of a batch of images."""
    mean = float(values.mean())
    return Summary(
        calls=len(values),
        mean_ms=mean,
        p20_ms=percentile(values, 0.2),
        p50_ms=percentile(values, 0.5),
        p80_ms=percentile(values, 0.8),
        p90_ms=percentile(values, 0.9),
        p90_estimate_ms=early_stopping(values, 0.9),
        p99_ms=percentile(values, 0.99) if len(values) >= FEWEST[0.99] else None,
        p99_estimate_ms=early_stopping(values, 0.99),
        per_second=1e3 * batch / mean,
    )
