"""Times of single calls by CUDA events, with a cold or a warm L2, and the floor that a device sets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

#: Device -> dense FP16 matrix FLOP/s with FP32 sums, and bytes/s of its memory.  Source: NVIDIA's data sheets
#: "H100 Tensor Core GPU" and "H200 Tensor Core GPU", SXM, halved where they count sparsity.
PEAKS = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12)}
#: GPU cycles of idling in front of a warm call: covers the launch, as clearing L2 does in front of a cold one.
_COVER = 100_000
_MOST = 400


class Clock:
    """Times calls on one device; what is written between cold calls is larger than any L2."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            size = 3 * torch.cuda.get_device_properties(0).L2_cache_size
            self._buffer = torch.empty(max(size, 64 << 20), dtype=torch.uint8, device=device)

    def sample(self, run: Callable[[], Any], *, cold: bool, seconds: float, least: int = 3) -> list[float]:
        """Times in ms of single calls, for some seconds but at least a few calls; the first call is not counted."""
        times: list[float] = []
        if self.device == "cuda":
            run()
        else:
            least = 1
        end = time.perf_counter() + seconds
        while len(times) < least or (time.perf_counter() < end and len(times) < _MOST):
            times.append(self._once(run, cold=cold))
        return times

    def _once(self, run: Callable[[], Any], *, cold: bool) -> float:
        if self.device != "cuda":
            began = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - began)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        if cold:
            self._buffer.zero_()
        else:
            torch.cuda._sleep(_COVER)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)


def percentiles(times: Sequence[float]) -> dict[str, float | int]:
    """p5, median and p95 in ms, and how many calls."""
    values, n = sorted(times), len(times) - 1
    return {
        "p5_ms": values[int(0.05 * n)],
        "p50_ms": statistics.median(values),
        "p95_ms": values[int(0.95 * n)],
        "runs": len(values),
    }


def peaks(device_name: str) -> tuple[str, float, float] | None:
    """Key of :data:`PEAKS`, FLOP/s and bytes/s of a device, or None where they are not known."""
    return next(((k, *v) for k, v in PEAKS.items() if k in device_name), None)


def against_floor(p50_ms: float, flops: float, nbytes: float, device_name: str) -> dict[str, float]:
    """Achieved bandwidth and rate, the floor max(FLOPs/peak, bytes/bandwidth), and its share of the time."""
    seconds = p50_ms / 1e3
    row = {"GB_s": nbytes / seconds / 1e9, "TFLOP_s": flops / seconds / 1e12}
    known = peaks(device_name)
    if known is None:
        return row
    floor = max(flops / known[1], nbytes / known[2])
    return {**row, "floor_ms": 1e3 * floor, "floor_share": floor / seconds}


def ceilings(clock: Clock) -> dict[str, float]:
    """What this card reaches: a large copy in GB/s (read and written), a large FP16 product in TFLOP/s."""
    source = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    copy = statistics.median(clock.sample(lambda: target.copy_(source), cold=False, seconds=0.1))
    product = statistics.median(clock.sample(lambda: a @ b, cold=False, seconds=0.2))
    return {"copy_GB_s": 2 * source.nbytes / copy / 1e6, "fp16_TFLOP_s": 2 * 8192**3 / product / 1e9}
