"""What holds the fused transformer back: its kernels' times one by one, and other launch settings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from gpu_common import Row, explain, relative
from gpu_compile import SHAPES, compile_all
from gpu_kernels import capture
from gpu_parts import MODES, load, part
from gpu_time import Clock
from torch import Tensor

from poster_edge.kernels import chain, dispatch
from poster_edge.kernels.launch import Launch, plan
from poster_edge.models.fused import packed_depths

_SHAPE = SHAPES["poster"]
#: Tile of columns, stages and warps that are tried; what a device's shared memory cannot hold gives a note.
_LINEAR = [(k, s, w) for k in (64, 128) for s in (2, 3, 4, 5) for w in (4, 8)]
_TRIED = {
    "attend": _LINEAR,
    "project": _LINEAR,
    "expand": _LINEAR,
    "contract": _LINEAR,
    "mix": [(k, s, w) for k in (64, 128) for s in (1, 2, 3) for w in (4, 8, 16)],
}


def profile_rows(batch: int) -> Iterator[Row]:
    """µs on the GPU of each kernel of one fused forward pass of the transformer, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    p = part("poster transformer", batch, load("poster", "cuda"), "cuda")
    for mode in ("fused", "w8a16"):
        with torch.inference_mode(), dispatch.use(MODES[mode][0]):
            replay, _ = capture(lambda: p.module(*p.inputs))
            replay()
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CUDA]) as found:
                for _ in range(5):
                    replay()
                torch.cuda.synchronize()
        times: dict[str, list[float]] = {}
        for event in found.events():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                times.setdefault(event.name, []).append(float(event.time_range.elapsed_us()))
        if not times:
            yield {"what": f"{mode} batch {batch}", "ok": None, "note": "the profiler saw no kernel"}
        for name, values in sorted(times.items(), key=lambda item: -sum(item[1])):
            row: Row = {"what": f"{mode} batch {batch}", "kernel": name[:80], "launches": len(values) / 5}
            yield {**row, "median_us": statistics.median(values), "forward_us": sum(values) / 5}


def changed(step: Launch, setting: tuple[int, int, int]) -> Launch:
    """A planned launch with another step of columns, stages and warps."""
    columns, stages, warps = setting
    return replace(step, constants={**step.constants, "BLOCK_K": columns}, stages=stages, warps=warps)


def sweep_rows(clock: Clock, *, seconds: float) -> Iterator[Row]:
    """The whole transformer's median in µs, as a CUDA graph, with one kernel's launch changed at a time."""
    end = time.monotonic() + seconds
    capability = torch.cuda.get_device_capability()
    jobs: list[Any] = []
    for batch in (1, 8):
        for kernel, settings in _TRIED.items():
            for last in (False, True) if kernel == "mix" else (False,):
                step = plan(kernel, _SHAPE, batch, "fp16", last=last, capability=capability)
                jobs += [(changed(step, setting), "fp16") for setting in settings]
    unique = {repr(job): job for job in jobs if not (job[0].kernel == "attend" and job[0].grid[1] > 1)}
    for _ in compile_all(list(unique.values())):
        if time.monotonic() > end - 15:
            break
    model = load("poster", "cuda")
    for batch in (1, 8):
        levels = model.pyramid_fuse.levels(*part("poster transformer", batch, model, "cuda").inputs)
        depths = packed_depths(model.pyramid_fuse, "fp16")
        base = chain.run(levels, depths, _launcher("", (0, 0, 0)))
        yield _timed(clock, levels, depths, batch, "as planned", (0, 0, 0), base)
        for kernel, settings in _TRIED.items():
            for setting in settings:
                if time.monotonic() > end:
                    yield {"kernel": kernel, "batch": batch, "ok": None, "note": "not measured: time"}
                    return
                yield _timed(clock, levels, depths, batch, kernel, setting, base)


def _launcher(kernel: str, setting: tuple[int, int, int]) -> chain.Launcher:
    from poster_edge.kernels.triton.jit import launch

    def run(step: Launch, tensors: dict[str, Any]) -> None:
        launch(changed(step, setting) if step.kernel == kernel else step, tensors)

    return run


def _timed(
    clock: Clock,
    levels: list[Tensor],
    depths: list[Any],
    batch: int,
    kernel: str,
    setting: tuple[int, ...],
    base: Tensor,
) -> Row:
    row: Row = {"kernel": kernel, "batch": batch, "BLOCK_K": setting[0], "stages": setting[1], "warps": setting[2]}
    try:
        launch = _launcher(kernel, setting)  # type: ignore[arg-type]
        replay, output = capture(lambda: chain.run(levels, depths, launch))
        error = relative(output, base)
        times = clock.sample(replay, cold=False, seconds=0.02, least=20)
        return {**row, "p50_us": 1e3 * statistics.median(times), "error": error, "ok": error <= 2e-3}
    except Exception as problem:
        # Too much shared memory or too many registers: a setting that cannot be had, no fault.
        return {**row, "ok": None, "note": explain(problem)}
