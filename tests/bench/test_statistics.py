"""Statistics against direct sums, published runs and data whose answer is known."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from poster_edge.bench.statistics import FEWEST, discarded, early_stopping, percentile, speed_ratio, summarise


def slower_at_most(t: int, count: int, share: Fraction) -> Fraction:
    """P(at most t of ``count`` calls are slower than the percentile), summed exactly."""
    return sum((math.comb(count, k) * (1 - share) ** k * share ** (count - k) for k in range(t + 1)), Fraction(0))


@pytest.mark.parametrize("share", [Fraction(9, 10), Fraction(99, 100)])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 500, 661, 662, 1000])
def test_discards_what_the_binomial_distribution_allows(count: int, share: Fraction) -> None:
    found = discarded(count, float(share))
    t = -1
    while slower_at_most(t + 1, count, share) < Fraction(1, 100):
        t += 1
    assert found == (t - 1 if t >= 1 else None)


@pytest.mark.parametrize(("count", "dropped"), [(2048, 172), (2145, 181), (7469, 685)])
def test_discards_what_published_runs_did(count: int, dropped: int) -> None:
    assert discarded(count, 0.9) == dropped


@pytest.mark.parametrize(("share", "fewest"), FEWEST.items())
def test_fewest_calls_follow_from_the_rule(share: float, fewest: int) -> None:
    assert discarded(fewest - 1, share) is None
    assert discarded(fewest, share) == 0


def test_the_estimate_bounds_the_true_percentile() -> None:
    rng = np.random.default_rng(3)
    true_p90 = -math.log(0.1)
    below = [early_stopping(rng.exponential(size=200), 0.9) < true_p90 for _ in range(2000)]  # type: ignore[operator]
    # 99 % confidence: one run in a hundred may claim too little.
    assert 0 < np.mean(below) <= 0.015


def test_percentile_is_a_call_that_was_measured() -> None:
    values = np.array([4.0, 1.0, 3.0, 2.0])
    assert [percentile(values, s) for s in (0.0, 0.5, 0.9, 0.99)] == [1.0, 3.0, 4.0, 4.0]


def test_few_calls_have_no_tail() -> None:
    few, many = summarise(np.ones(63), batch=8), summarise(np.ones(662), batch=8)
    assert (few.p90_estimate_ms, few.p99_ms, few.p99_estimate_ms) == (None, None, None)
    assert (many.p90_estimate_ms, many.p99_ms, many.p99_estimate_ms) == (1.0, 1.0, 1.0)
    assert few.per_second == pytest.approx(8000)


def test_ratio_is_paired_by_round() -> None:
    """A machine that slows down in some rounds slows both: the ratio's interval stays narrow."""
    rng = np.random.default_rng(0)
    slow = rng.choice([1.0, 3.0], 60)
    baseline = [s * rng.normal(10, 0.1, 5) for s in slow]
    candidate = [s * rng.normal(5, 0.05, 5) for s in slow]
    ratio = speed_ratio(baseline, candidate)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.value == pytest.approx(2, rel=0.02)
    assert ratio.high - ratio.low < 0.1
    unpaired = speed_ratio(baseline, [candidate[i] for i in rng.permutation(60)])
    assert unpaired.high - unpaired.low > 1


def test_interval_covers_the_true_ratio() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        ratio = speed_ratio(
            [rng.lognormal(0, 0.3, 3) for _ in range(20)], [rng.lognormal(0, 0.3, 3) for _ in range(20)]
        )
        hits += ratio.low <= 1 <= ratio.high
    assert 180 <= hits <= 200
