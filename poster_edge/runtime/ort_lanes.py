"""Large batches on a CPU: a part of the batch on each core, instead of all cores on one operator after another.

Nothing waits for the slowest core of every operator, and operators that onnxruntime computes on one core (small
copies, softmax over short rows) are computed on all.  The price is a second session, opened for the first large batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Feed = Mapping[str, NDArray[Any]]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Lanes:
    """One session of single-threaded operators, run on several threads at once.

    Args:
        count: how many threads.
        open_session: opens a session with that many threads for an operator.
    """

    def __init__(self, count: int, open_session: Callable[[int], ort.InferenceSession]) -> None:
        self.count = count
        self._open = open_session
        self._session: ort.InferenceSession | None = None
        self._threads: ThreadPoolExecutor | None = None

    def serve(self, batch: int) -> bool:
        """Whether a batch is large enough: two images for each thread."""
        return self.count > 1 and batch >= 2 * self.count

    def run(self, names: list[str], feed: Feed) -> list[NDArray[Any]]:
        """Outputs of a batch, as one call of the session would give them."""
        session = self._session = self._session or self._open(1)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.count, thread_name_prefix="poster-edge-lane")
        split = {name: np.array_split(array, self.count) for name, array in feed.items()}
        shares = [{name: arrays[i] for name, arrays in split.items()} for i in range(self.count)]
        parts = list(self._threads.map(lambda share: session.run(names, share), shares))
        return [np.concatenate(same) for same in zip(*parts, strict=True)]

    def close(self) -> None:
        """End the threads and let the session go."""
        if self._threads is not None:
            self._threads.shutdown()
        self._threads = self._session = None
