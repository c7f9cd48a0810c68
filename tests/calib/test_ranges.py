"""Ranges against distributions whose best range is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from poster_edge.calib.histogram import BINS, StreamingHistogram
from poster_edge.calib.ranges import all_ranges, entropy, minmax, mse, percentile
from poster_edge.errors import PosterEdgeError


def histogram_of(values: np.ndarray, *, pieces: int = 7) -> StreamingHistogram:
    histogram = StreamingHistogram("x")
    for piece in np.array_split(values, pieces):
        histogram.update(piece)
    return histogram


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_order_and_batches_do_not_matter(rng: np.random.Generator) -> None:
    values = rng.laplace(0, 3, 100_000).astype(np.float32)
    growing, shrinking = np.sort(np.abs(values)), np.sort(np.abs(values))[::-1]
    once = histogram_of(values, pieces=1)
    for other in (histogram_of(growing, pieces=50), histogram_of(shrinking, pieces=3)):
        np.testing.assert_array_equal(other.counts, once.counts)
        assert (other.limit, other.maximum, other.total) == (once.limit, once.maximum, once.total)


def test_counts_are_exact(rng: np.random.Generator) -> None:
    values = rng.normal(0, 1, 50_000).astype(np.float32)
    histogram = histogram_of(values)
    expected, _ = np.histogram(np.abs(values.astype(np.float64)), bins=BINS, range=(0, histogram.limit))
    # A float32 product may put a value on the other side of an edge; no bin may lose more than that.
    assert np.abs(histogram.counts - expected).max() <= 2
    assert histogram.counts.sum() == histogram.total == values.size
    assert histogram.maximum == np.abs(values).max()


def test_nothing_and_zeros() -> None:
    empty = StreamingHistogram("x")
    empty.update(np.empty((0, 3), np.float32))
    zeros = histogram_of(np.zeros(100, np.float32))
    for histogram in (empty, zeros):
        assert set(all_ranges(histogram).values()) == {0.0}
    zeros.update(np.ones(5, np.float32))
    assert (zeros.counts[0], zeros.counts[-1], zeros.limit) == (100, 5, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    with pytest.raises(PosterEdgeError, match="'x' are not all finite"):
        StreamingHistogram("x").update(np.array([1.0, bad], np.float32))


@pytest.mark.parametrize("sigma", [0.01, 1.0, 300.0])
def test_mse_of_a_normal_distribution(rng: np.random.Generator, sigma: float) -> None:
    """Banner et al. (2019), Table 1: 3.92 sigma for 8 bits (256 levels; 255 here)."""
    found = mse(histogram_of(rng.normal(0, sigma, 4_000_000).astype(np.float32)))
    assert found / sigma == pytest.approx(3.92, rel=0.03)


def test_mse_of_a_laplace_distribution(rng: np.random.Generator) -> None:
    """Banner et al. (2019): 9.89 b for 8 bits."""
    found = mse(histogram_of(rng.laplace(0, 2.0, 4_000_000).astype(np.float32)))
    assert found / 2.0 == pytest.approx(9.89, rel=0.04)


def test_uniform_values_are_not_clipped(rng: np.random.Generator) -> None:
    histogram = histogram_of(rng.uniform(-5, 5, 1_000_000).astype(np.float32))
    assert minmax(histogram) == pytest.approx(5, rel=1e-4)
    assert mse(histogram) == pytest.approx(5, rel=0.03)
    assert entropy(histogram) == pytest.approx(5, rel=0.03)
    assert percentile(histogram) == pytest.approx(4.9995, rel=1e-3)


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.99])
def test_percentile_is_the_quantile(rng: np.random.Generator, percent: float) -> None:
    values = rng.exponential(1.0, 2_000_000).astype(np.float32)
    found = percentile(histogram_of(values), percent)
    assert found == pytest.approx(-np.log(1 - percent / 100), rel=0.02)


def test_an_outlier_moves_minmax_only(rng: np.random.Generator) -> None:
    values = rng.normal(0, 1, 2_000_000).astype(np.float32)
    clean = all_ranges(histogram_of(values))
    spoilt = all_ranges(histogram_of(np.append(values, np.float32(40.0))))
    assert spoilt["minmax"] == 40.0
    for method in ("entropy", "percentile", "mse"):
        assert spoilt[method] == pytest.approx(clean[method], rel=0.2), method
        assert spoilt[method] < 8, method


def test_entropy_ignores_the_zeros_of_a_relu(rng: np.random.Generator) -> None:
    half = np.abs(rng.normal(0, 1, 500_000)).astype(np.float32)
    with_zeros = np.concatenate([half, np.zeros(2_000_000, np.float32)])
    assert entropy(histogram_of(with_zeros)) == pytest.approx(entropy(histogram_of(half)), rel=0.05)


def test_methods_differ(rng: np.random.Generator) -> None:
    """The trap of a default 'entropy' that is min-max in disguise."""
    ranges = all_ranges(histogram_of(rng.standard_t(3, 1_000_000).astype(np.float32)))
    values = sorted(ranges.values())
    assert all(b > 1.05 * a for a, b in itertools.pairwise(values)), ranges
    assert max(ranges, key=ranges.__getitem__) == "minmax"
