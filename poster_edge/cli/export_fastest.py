"""Which precision is worth its errors, by calls that were timed in turns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from poster_edge.bench.statistics import speed_ratio

#: A lower precision must be this much faster to be worth its errors.
_WORTH = 1.03


def fastest(times: Mapping[str, NDArray[np.float64]], *, judged: bool) -> tuple[str, str]:
    """The precision that is worth its errors, and what is to be said about it.

    A gain counts when it is large enough and its 95 % interval is one: on a busy machine chance is none.

    Args:
        times: precision -> ms of its calls, all taken in turns, "fp32" among them.
        judged: whether the gate has had its say.
    """
    gain = f"{_WORTH - 1:.0%}"
    rounds = {n: [np.atleast_1d(t) for t in calls] for n, calls in times.items()}
    ratios = {n: speed_ratio(rounds["fp32"], rounds[n]) for n in times if n != "fp32"}
    worth = {n: r.value for n, r in ratios.items() if r.value >= _WORTH and r.low > 1}
    told = ", ".join(
        f"{n} {r.value:.2f} times as fast as fp32 ({r.low:.2f} to {r.high:.2f})" for n, r in ratios.items()
    )
    if not worth:
        return "fp32", f"{told}; no lower precision is surely faster by {gain}: fp32 is kept"
    best = max(worth, key=worth.__getitem__)
    others = [n for n in ratios if n not in worth]
    also = f", {' and '.join(others)} not surely faster than fp32 by {gain}" if others else ""
    return best, f"{told}; {best} is the fastest{' that passes' if judged else ', none was judged'}{also}"
