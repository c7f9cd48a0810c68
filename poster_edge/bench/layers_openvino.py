"""Times of OpenVINO's layers, from its own counters."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from poster_edge.bench.layers_join import Trace
from poster_edge.runtime.openvino_runner import OpenVinoRunner

#: OpenVINO's layers that multiply.
_PRODUCTS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})


def trace_openvino(
    runner: OpenVinoRunner, feed: Mapping[str, NDArray[Any]], *, runs: int, warmup: int
) -> tuple[list[Trace], list[float]]:
    """Run a model with OpenVINO's counters on.

    Args:
        runner: not entered yet.
        feed: input name -> array.
        runs: timed ones.
        warmup: runs before, which are left out.

    Returns:
        The layers in the order of execution, and the ms of each whole run.
    """
    runner.time_layers()
    times: dict[str, list[float]] = {}
    totals = []
    with runner:
        for _ in range(warmup):
            runner.infer(feed)
        for _ in range(runs):
            began = time.perf_counter()
            runner.infer(feed)
            totals.append(1e3 * (time.perf_counter() - began))
            for name, ms in runner.layer_times():
                times.setdefault(name, []).append(ms)
        layers = {op.get_friendly_name(): op for op in runner.executed_graph().get_ordered_ops()}
        traces = [_trace(name, ms, layers.get(name)) for name, ms in times.items()]
    return traces, totals


def _trace(name: str, ms: list[float], op: Any) -> Trace:
    if op is None:
        return Trace(name, "?", tuple(ms))
    kind = _info(op, "layerType")
    names = _origins(op, whole=kind not in _PRODUCTS)
    # A product that lost its name stands before a layer that kept it, such as the addition of its bias.
    feeds = [n for out in op.outputs() for port in out.get_target_inputs() for n in _origins(port.get_node())]
    return Trace(name, kind, tuple(ms), names, names, feeds=tuple(feeds) if kind in _PRODUCTS else (), moved=_moved(op))


def _info(op: Any, key: str) -> str:
    info = op.get_rt_info()
    return info[key].astype(str) if key in info else ""


def _origins(op: Any, *, whole: bool = False) -> tuple[str, ...]:
    """Names of the nodes that a layer was made of.

    Args:
        op: of the executed graph.
        whole: leave names as they are; "product/transpose_a" is then not the product.
    """
    names = [n.strip() for n in _info(op, "originalLayersNames").split(",")]
    return tuple(dict.fromkeys(n if whole else n.partition("/")[0] for n in names if n))


def _moved(op: Any) -> int:
    """Bytes of all inputs and outputs."""
    ports = [*op.inputs(), *op.outputs()]
    sizes = [math.prod(p.get_partial_shape().get_max_shape()) * p.get_element_type().bitwidth for p in ports]
    return sum(sizes) // 8
