"""Ceilings of this machine's CPU, measured: the best of some products in each precision, and a copy through memory.

They are what well-written code reaches here at the same number of threads, not the peaks of a data sheet, so a layer
can exceed them: one whose data still lies in a cache is faster than main memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from poster_edge.bench.devices import Device, Figure
from poster_edge.optional import require

#: Sides of square matrices: short products slip between what else the machine does, long ones hide their overhead.
_SIDES = (256, 512, 1024)
#: A 3x3 convolution, which some runtimes compute faster than any matrix product: channels, side of the image.
_CONVOLUTION = (64, 56)
#: Bytes of each of the two arrays of the copy, far more than any cache holds.
_COPY_BYTES = 256 << 20
#: Of one copy.
_PART_BYTES = 16 << 20


def measure_host(*, threads: int, seconds: float = 1.0) -> Device:
    """Measure the ceilings of the CPU.

    Args:
        threads: as many as the model runs with.
        seconds: for each of the measurements.

    Raises:
        UnavailableError: the package onnx, which writes the matrix products, is missing.
    """
    each = seconds / (len(_SIDES) + 1)
    rates = {}
    for precision in ("fp32", "int8"):
        found = {f"MatMul {side}": _rate(_matmul(precision, side), threads, each) for side in _SIDES}
        if precision == "fp32":
            found["3x3 convolution"] = _rate(_convolution(), threads, each)
        best = max(found, key=lambda name: found[name])
        rates[precision] = Figure(found[best] / 1e12, f"measured: {best} in onnxruntime")
    copy = Figure(_copy_rate(threads, seconds) / 1e9, f"measured: copy of {_COPY_BYTES >> 20} MiB, read and written")
    # onnxruntime and, for want of FP16 units, most CPUs compute FP16 graphs in float32.
    rates["fp16"] = rates["fp32"]
    name = f"this CPU, {threads} thread{'' if threads == 1 else 's'}"
    return Device(name, rates, copy, measured=True)


class _Product(NamedTuple):
    """A model of one node, its input, and the operations of a run."""

    model: Any
    feed: dict[str, NDArray[Any]]
    flops: int


def _rate(product: _Product, threads: int, seconds: float) -> float:
    """Operations a second of the fastest of many runs."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    data = product.model.SerializeToString()
    session = ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    return product.flops / _best(lambda: session.run(None, product.feed), seconds)


def _matmul(precision: str, side: int) -> _Product:
    """A square matrix product."""
    rng = np.random.default_rng(0)
    if precision == "int8":
        value: NDArray[Any] = rng.integers(0, 255, (side, side)).astype(np.uint8)
        weights: NDArray[Any] = rng.integers(-63, 64, (side, side)).astype(np.int8)
        return _Product(_one_node("MatMulInteger", value, weights, np.int32), {"a": value}, 2 * side**3)
    value, weights = (rng.normal(size=(side, side)).astype(np.float32) for _ in range(2))
    return _Product(_one_node("MatMul", value, weights, np.float32), {"a": value}, 2 * side**3)


def _convolution() -> _Product:
    """A 3x3 convolution that keeps size and channels."""
    channels, side = _CONVOLUTION
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, channels, side, side)).astype(np.float32)
    weights = rng.normal(size=(channels, channels, 3, 3)).astype(np.float32)
    model = _one_node("Conv", image, weights, np.float32, pads=[1, 1, 1, 1])
    return _Product(model, {"a": image}, 2 * image.size * weights[0].size)


def _one_node(op: str, value: NDArray[Any], weights: NDArray[Any], result: type, **attributes: Any) -> Any:
    """A model of one product whose output is as large as its input."""
    onnx = require("onnx", purpose="measure this machine's ceilings")
    helper = onnx.helper
    kinds = [helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in (value.dtype, result)]
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["c"], **attributes)],
        "ceiling",
        [helper.make_tensor_value_info("a", kinds[0], value.shape)],
        [helper.make_tensor_value_info("c", kinds[1], value.shape)],
        [onnx.numpy_helper.from_array(weights, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _copy_rate(threads: int, seconds: float) -> float:
    """Bytes a second of the best copy, what is read and what is written, as STREAM counts.

    Each copy takes the next part of the arrays: it is short, so that some slip between what else the machine does,
    and by the time a part comes round again the others have pushed it out of every cache.
    """
    count, part = _COPY_BYTES // 8, _PART_BYTES // 8
    source, target = np.ones(count), np.ones(count)
    starts = cycle(range(0, count, part))
    share = -(-part // threads)

    def copy(start: int, end: int) -> None:
        np.copyto(target[start:end], source[start:end])

    with ThreadPoolExecutor(threads) as pool:

        def call() -> None:
            first = next(starts)
            edges = [min(first + share * i, first + part) for i in range(threads + 1)]
            # numpy lets other threads run while it copies.
            list(pool.map(copy, edges[:-1], edges[1:]))

        best = _best(call, seconds)
    return 2 * _PART_BYTES / best


def _best(call: Callable[[], object], seconds: float) -> float:
    """Time of the fastest call, in s; at least three are timed after an untimed one."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
