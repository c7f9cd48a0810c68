"""Histograms of magnitudes that are filled batch by batch, in memory that does not grow.

The upper edge is a power of two; a value beyond it doubles the edge by adding neighbouring bins
pairwise.  The edges of every size nest, so the result does not depend on the order of the batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import PosterEdgeError

BINS = 4096
#: Values are counted in pieces of this many, so that temporaries stay small.
_PIECE = 1 << 20


@dataclass
class StreamingHistogram:
    """Counts of |x| in ``BINS`` equal bins over 0..limit, with the exact largest value.

    Attributes:
        counts: (BINS,) int64.
        limit: upper edge of the last bin, a power of two; 0 while only zeros were seen.
        maximum: largest |x| seen, exact.
        total: how many values were seen.
        name: of the tensor, for messages.
    """

    name: str = ""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    limit: float = 0.0
    maximum: float = 0.0
    total: int = 0

    @property
    def centres(self) -> NDArray[np.float64]:
        """(BINS,) middle of each bin."""
        return (np.arange(BINS, dtype=np.float64) + 0.5) * (self.limit / BINS)

    def update(self, values: NDArray[np.floating]) -> None:
        """Count values of any shape.

        Raises:
            PosterEdgeError: one of them is not finite.
        """
        flat = np.asarray(values).reshape(-1)
        for start in range(0, len(flat), _PIECE):
            self._update(np.abs(flat[start : start + _PIECE]))

    def _update(self, magnitudes: NDArray[np.floating]) -> None:
        peak = float(magnitudes.max(initial=0.0))
        if not math.isfinite(peak):
            raise PosterEdgeError(f"the values of '{self.name}' are not all finite; calibrate a model that works")
        self.maximum = max(self.maximum, peak)
        self.total += magnitudes.size
        if peak > self.limit:
            self._grow(peak)
        if not self.limit:
            self.counts[0] += magnitudes.size
            return
        index = (magnitudes * (BINS / self.limit)).astype(np.int32)
        # The upper edge itself belongs to the last bin.
        np.minimum(index, BINS - 1, out=index)
        self.counts += np.bincount(index, minlength=BINS)

    def _grow(self, peak: float) -> None:
        wanted = 2.0 ** math.ceil(math.log2(peak))
        if not self.limit:
            self.limit = wanted
            return
        while self.limit < wanted:
            # BINS -> BINS/2 x 2 -> BINS/2
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[BINS // 2 :] = 0
            self.limit *= 2
