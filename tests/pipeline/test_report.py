"""The summary's figures: of the whole run, however long, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from poster_edge.pipeline.report import Sampled


def test_a_short_run_is_told_exactly() -> None:
    values = np.random.default_rng(0).normal(10, 2, 999)
    sampled = Sampled(1000)
    for value in values:
        sampled.add(value)
    assert sampled.percentiles(50, 90) == pytest.approx(np.percentile(values, [50, 90]).tolist())


@pytest.mark.parametrize("count", [1000, 1001, 3000, 123_457])
def test_a_long_run_is_told_from_evenly_spaced_numbers_of_all_of_it(count: int) -> None:
    sampled = Sampled(1000)
    for value in range(count):
        sampled.add(value)
    kept = np.array(sampled._kept)
    assert 500 <= len(kept) <= 1000
    assert len(set(np.diff(kept))) == 1
    assert kept[0] == 0
    assert kept[-1] >= count - 1 - np.diff(kept)[0]
    assert sampled.percentiles(50, 90) == pytest.approx([0.5 * count, 0.9 * count], rel=0.01)
