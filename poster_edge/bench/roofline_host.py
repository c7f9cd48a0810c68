"""Ceilings of this machine's CPU, measured: a matrix product for each precision and a copy through main memory.

They are what well-written code reaches here at the same number of threads, not the peaks of a data sheet, so a layer
can exceed them: one whose data still lies in a cache is faster than main memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from poster_edge.bench.devices import Device, Figure
from poster_edge.optional import require

#: Side of the square matrices; their products fit a cache and keep every core busy.
_SIDE = 1024
#: Bytes of each of the two arrays of the copy, far more than any cache holds.
_COPY_BYTES = 256 << 20


def measure_host(*, threads: int, seconds: float = 0.6) -> Device:
    """Measure the ceilings of the CPU.

    Args:
        threads: as many as the model runs with.
        seconds: for each of the measurements.

    Raises:
        UnavailableError: the package onnx, which writes the matrix products, is missing.
    """
    rates = {p: Figure(_product_rate(p, threads, seconds) / 1e12, f"measured: {_WHAT[p]}") for p in ("fp32", "int8")}
    copy = Figure(_copy_rate(threads, seconds) / 1e9, f"measured: copy of {_COPY_BYTES >> 20} MiB, read and written")
    # onnxruntime and, for want of FP16 units, most CPUs compute FP16 graphs in float32.
    rates["fp16"] = rates["fp32"]
    name = f"this CPU, {threads} thread{'' if threads == 1 else 's'}"
    return Device(name, rates, copy, measured=True)


_WHAT = {
    "fp32": f"onnxruntime MatMul of {_SIDE}x{_SIDE} matrices",
    "int8": f"onnxruntime MatMulInteger of {_SIDE}x{_SIDE} matrices",
}


def _product_rate(precision: str, threads: int, seconds: float) -> float:
    """Operations a second of the best of many products."""
    session, feed = _product(precision, threads)
    best = _best(lambda: session.run(None, feed), seconds)
    return 2 * _SIDE**3 / best


def _product(precision: str, threads: int) -> tuple[ort.InferenceSession, dict[str, NDArray[Any]]]:
    onnx = require("onnx", purpose="measure this machine's ceilings")
    helper, types = onnx.helper, onnx.TensorProto
    rng = np.random.default_rng(0)
    if precision == "int8":
        op, left, right, result = "MatMulInteger", types.UINT8, types.INT8, types.INT32
        # 7 bits, as sums of 8-bit pairs saturate on CPUs without VNNI; the speed is the same.
        value: NDArray[Any] = rng.integers(0, 255, (_SIDE, _SIDE)).astype(np.uint8)
        weights: NDArray[Any] = rng.integers(-63, 64, (_SIDE, _SIDE)).astype(np.int8)
    else:
        op, left, right, result = "MatMul", types.FLOAT, types.FLOAT, types.FLOAT
        value, weights = (rng.normal(size=(_SIDE, _SIDE)).astype(np.float32) for _ in range(2))
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["c"])],
        "ceiling",
        [helper.make_tensor_value_info("a", left, [_SIDE, _SIDE])],
        [helper.make_tensor_value_info("c", result, [_SIDE, _SIDE])],
        [helper.make_tensor("b", right, [_SIDE, _SIDE], weights.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return session, {"a": value}


def _copy_rate(threads: int, seconds: float) -> float:
    """Bytes a second of the best copy, what is read and what is written, as STREAM counts."""
    count = _COPY_BYTES // 8
    source, target = np.ones(count), np.zeros(count)
    edges = [count * i // threads for i in range(threads + 1)]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    with ThreadPoolExecutor(threads) as pool:
        # numpy lets other threads run while it copies.
        best = _best(lambda: list(pool.map(lambda s: np.copyto(target[s], source[s]), parts)), seconds)
    return 2 * _COPY_BYTES / best


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
