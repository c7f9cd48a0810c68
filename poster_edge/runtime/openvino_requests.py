"""OpenVINO's inferences under way: two requests that take turns, so that one computes while the other is prepared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Pending:
    """An inference under way.

    Attributes:
        infer_ms: time from its turn to its end, to some 0.01 ms, known once :meth:`result` has returned; what else kept
            the cores busy meanwhile is in it.
    """

    def __init__(self, request: Any, name_of: Callable[[Any], str], before: Pending | None) -> None:
        self.infer_ms = 0.0
        self._before = before
        self._request, self._name_of = request, name_of
        self._outputs: dict[str, NDArray[Any]] = {}
        self._failure: Exception | None = None
        self._began = self._ended = time.perf_counter()

    def start(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Begin; the feed is copied."""
        self._began = time.perf_counter()
        self._request.start_async(dict(feed))

    def result(self) -> dict[str, NDArray[Any]]:
        """Wait for the outputs: name -> array of its own.

        Raises:
            RuntimeError: OpenVINO refused the feed.
        """
        self.finish()
        if self._failure is not None:
            raise self._failure
        return self._outputs

    def finish(self) -> None:
        """Wait, and take the outputs or the failure out of the request."""
        if self._request is None:
            return
        try:
            self._request.wait()
            # OpenVINO notes the end itself: a callback of ours would wait for Python's lock, held by whoever lets go of
            # the request, who waits for the callback.  It takes one inference after the other.
            # It may do so a moment after it has let us go; until then the time is that of an earlier end.
            latency_s = self._request.latency / 1e3
            self._ended = self._began + latency_s if latency_s > 0 else time.perf_counter()
            began = max(self._began, self._before._ended) if self._before is not None else self._began
            self.infer_ms = 1e3 * max(0.0, self._ended - began)
            results = self._request.results
            self._outputs = {self._name_of(port): np.array(results[port]) for port in results}
        except Exception as error:
            self._failure = error
        self._request = self._before = None


class Requests:
    """Two requests of a compiled model.

    Args:
        compiled: OpenVINO's compiled model.
        name_of: name of one of its outputs.
    """

    def __init__(self, compiled: Any, name_of: Callable[[Any], str]) -> None:
        self._requests = [compiled.create_infer_request() for _ in range(2)]
        self._name_of = name_of
        self._under_way: list[Pending | None] = [None, None]
        self._turn = 0

    def submit(self, feed: Mapping[str, NDArray[Any]]) -> Pending:
        """Begin an inference; a third waits for the first, whose result is kept for whoever asks for it."""
        turn, self._turn = self._turn, 1 - self._turn
        before = self._under_way[turn]
        if before is not None:
            before.finish()
            self._under_way[turn] = None
        pending = self._under_way[turn] = Pending(self._requests[turn], self._name_of, self._under_way[self._turn])
        try:
            pending.start(feed)
        except Exception:
            self._under_way[turn] = None
            raise
        return pending

    def close(self) -> None:
        """Wait for what is under way, so that nothing computes after the model is gone."""
        for pending in self._under_way:
            if pending is not None:
                pending.finish()
        self._under_way = [None, None]
        self._requests = []
