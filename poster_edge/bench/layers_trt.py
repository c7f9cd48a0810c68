"""Times of TensorRT's layers, from its ``IProfiler`` ("Per-Layer Profiling", TensorRT developer guide)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from poster_edge.bench.layers_join import Trace
from poster_edge.runtime.trt_runner import TensorRtRunner

#: TensorRT joins the names of what it fused by these, and puts them in brackets where it compiles a subgraph.
_JOINS = re.compile(r"\s*\+\s*|\.\.\.|[\[\](){},\s]+")


def trace_tensorrt(
    runner: TensorRtRunner, feed: Mapping[str, NDArray[Any]], *, runs: int, warmup: int
) -> tuple[list[Trace], list[float]]:
    """Run an engine layer by layer, without CUDA graphs.

    Args:
        runner: not entered yet.
        feed: input name -> array.
        runs: timed ones.
        warmup: runs before, which are left out.

    Returns:
        The layers in the order of execution, and the ms of each whole run.
    """
    times: dict[str, list[float]] = {}
    totals = []
    with runner:
        runner.profile_to(_profiler(runner.module, times))
        for _ in range(warmup):
            runner.infer(feed)
        times.clear()
        for _ in range(runs):
            began = time.perf_counter()
            runner.infer(feed)
            totals.append(1e3 * (time.perf_counter() - began))
        traces = [_trace(name, ms, runs) for name, ms in times.items()]
    return traces, totals


def _profiler(module: Any, times: dict[str, list[float]]) -> Any:
    """An ``IProfiler`` that notes every report."""

    class Profiler(module.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms)

    return Profiler()


def _trace(name: str, ms: list[float], runs: int) -> Trace:
    # A layer that runs several times in one inference reports each of them.
    each = len(ms) // runs or 1
    summed = tuple(sum(ms[i : i + each]) for i in range(0, each * runs, each))
    names = tuple(part for part in _JOINS.split(name) if part)
    return Trace(name, _kind(name), summed, names, names)


def _kind(name: str) -> str:
    """TensorRT names no types; a subgraph that it compiled as a whole bears a mark."""
    return "compiled subgraph" if "ForeignNode" in name or "myl" in name.lower() else "layer"
