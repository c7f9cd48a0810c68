"""From a histogram to the range that INT8 keeps: min-max, entropy, percentile, mean squared error.

A range is one number, the largest magnitude that is represented; the scale is range / 127.

Sources: entropy, Migacz, "8-bit Inference with TensorRT" (GTC 2017); mean squared error, Banner et
al., "Post training 4-bit quantization of convolutional networks" (2019), section 3, on the histogram
in place of a fitted density.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from poster_edge.calib.histogram import BINS, StreamingHistogram

METHODS = ("minmax", "entropy", "percentile", "mse")
#: Largest level of symmetric INT8; -128 is not used, so that a value and its negative are alike.
LEVELS = 127
#: Entry of an INT8 graph's metadata: no sum of two of its products leaves 16 bits.
PAIRS_FIT = "poster_edge.int8_pairs_fit_16_bits"
#: Share of the values, in per cent, that "percentile" keeps.
PERCENTILE = 99.99
#: Candidates of the searching methods, as shares of the histogram's used part.
_ENTROPY_STEP = 16
_MSE_CANDIDATES = np.geomspace(1 / 64, 1.0, 160)
#: Points that stand for the values of one bin when errors are summed.
_POINTS = (np.arange(4) + 0.5) / 4


def minmax(histogram: StreamingHistogram) -> float:
    """The largest magnitude: nothing is clipped."""
    return histogram.maximum


def percentile(histogram: StreamingHistogram, percent: float = PERCENTILE) -> float:
    """The magnitude below which ``percent`` per cent of the values lie, linear within a bin."""
    if not histogram.maximum:
        return 0.0
    cumulative = np.cumsum(histogram.counts)
    wanted = percent / 100 * histogram.total
    index = int(np.searchsorted(cumulative, wanted))
    before = cumulative[index - 1] if index else 0
    share = (wanted - before) / max(histogram.counts[index], 1)
    return float(min((index + share) * histogram.limit / BINS, histogram.maximum))


def entropy(histogram: StreamingHistogram) -> float:
    """The magnitude whose clipped, quantised distribution diverges least (Kullback-Leibler) from the clipped one.

    Exact zeros carry no information about the range and fill the first bin after a ReLU: it is
    given the count of its neighbour.
    """
    if not histogram.maximum:
        return 0.0
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    levels = LEVELS + 1
    if used <= levels:
        return histogram.maximum
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    occupied = np.concatenate([[0], np.cumsum(counts > 0)])
    candidates = [*range(levels, used, _ENTROPY_STEP), used]
    losses = [_divergence(counts, cumulative, occupied, bins) for bins in candidates]
    best = candidates[int(np.argmin(losses))]
    return float(min(best * histogram.limit / BINS, histogram.maximum))


def _divergence(
    counts: NDArray[np.float64], cumulative: NDArray[np.float64], occupied: NDArray[np.int64], bins: int
) -> float:
    """KL divergence between the first ``bins`` bins, outliers in the last, and their 128-level form."""
    reference = counts[:bins].copy()
    reference[-1] += cumulative[-1] - cumulative[bins]
    edges = np.floor(np.arange(LEVELS + 2) * bins / (LEVELS + 1)).astype(np.int64)
    mass = cumulative[edges[1:]] - cumulative[edges[:-1]]
    filled = occupied[edges[1:]] - occupied[edges[:-1]]
    # Each level's mass is spread evenly over those of its bins that hold something.
    spread = np.repeat(mass / np.maximum(filled, 1), np.diff(edges)) * (counts[:bins] > 0)
    total, quantised = reference.sum(), spread.sum()
    if not total or not quantised:
        return float("inf")
    p, q = reference / total, spread / quantised
    here = p > 0
    # A bin with outliers only has q = 0; a small floor keeps the divergence finite and large.
    return float((p[here] * np.log(p[here] / np.maximum(q[here], 1e-12))).sum())


def mse(histogram: StreamingHistogram) -> float:
    """The magnitude with the least mean squared error of rounding and clipping together."""
    if not histogram.maximum:
        return 0.0
    filled = np.flatnonzero(histogram.counts)
    width = histogram.limit / BINS
    # bins x 4 -> values, each standing for a quarter of its bin
    values = ((filled[:, None] + _POINTS) * width).reshape(-1)
    np.minimum(values, histogram.maximum, out=values)
    weights = np.repeat(histogram.counts[filled] / len(_POINTS), len(_POINTS))
    candidates = histogram.maximum * _MSE_CANDIDATES
    losses = [float(weights @ (values - _rounded(values, top)) ** 2) for top in candidates]
    return float(candidates[int(np.argmin(losses))])


def _rounded(values: NDArray[np.float64], top: float) -> NDArray[np.float64]:
    step = top / LEVELS
    return np.minimum(np.rint(values / step), LEVELS) * step


_SEARCH: dict[str, Callable[[StreamingHistogram], float]] = {
    "minmax": minmax,
    "entropy": entropy,
    "percentile": percentile,
    "mse": mse,
}


def all_ranges(histogram: StreamingHistogram) -> dict[str, float]:
    """The range of every method, by name."""
    return {name: search(histogram) for name, search in _SEARCH.items()}
