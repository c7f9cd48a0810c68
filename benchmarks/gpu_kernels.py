"""The fused kernels' part of ``gpu.py``: numerics of kernels, depths and whole models, and times.

Every row stands alone: what fails becomes a row that names its error, and the rest goes on.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import kernel_cases as cases
import torch
from torch import Tensor, nn

from poster_edge.kernels import dispatch
from poster_edge.kernels.numerics import BARS, FACTOR, relative
from poster_edge.kernels.pack import ACTIVATIONS
from poster_edge.models.config import CONFIGS
from poster_edge.models.poster import Poster

Run = Callable[[], Any]
#: Largest relative L2 error of a whole model's logits, backbones included.
MODEL_BARS = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2, "w8a16": 1e-2}


def random_model(name: str) -> Poster:
    """A model whose weights, biases and norms are all away from their start."""
    torch.manual_seed(0)
    model = Poster(CONFIGS[name]).eval().requires_grad_(False)
    for value in model.pyramid_fuse.parameters():
        value.add_(torch.randn_like(value) * 0.02)
    return model


def check_kernels(device: str, names: list[str], batches: tuple[int, ...]) -> list[dict[str, Any]]:
    """Each kernel, a depth and the whole of each model against float64, outputs poisoned with NaN."""
    precisions = list(BARS) if device == "cuda" else ["fp32", "fp16", "w8a16"]
    small = ["nano", "no-mix"] if device == "cuda" else ["nano"]
    with torch.no_grad():
        found = cases.numerics(small, device=device, precisions=precisions, batches=batches, folder=None)
        if "poster" in names:
            model = random_model("poster")
            for batch in (1, 3):
                side = model.config.input_size
                x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(2))
                levels = cases.pyramid(model, x)
                found += cases.stage_rows(
                    model.pyramid_fuse.blocks[0],
                    levels,
                    case="poster",
                    heads=8,
                    device=device,
                    precisions=precisions,
                    launch=cases.launcher(),
                )
    rows = [
        {
            "what": f"{r.case} {r.kernel} {r.level} batch {r.batch}",
            "precision": r.precision,
            "error": r.error,
            "torch": r.torch_error,
            "ok": r.ok,
            "note": r.note,
        }
        for r in found
    ]
    for name in names:
        for precision in precisions:
            rows += _model_rows(name, precision, device)
    return rows


@torch.inference_mode()
def _model_rows(name: str, precision: str, device: str) -> list[dict[str, Any]]:
    """Logits of a whole model through the dispatcher, beside eager's, and a CUDA graph's replay."""
    row: dict[str, Any] = {"what": f"{name} logits, dispatched", "precision": precision}
    try:
        model = random_model(name)
        side = model.config.input_size
        x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
        with dispatch.use("eager"):
            expected = model.double()(x.double())
            model, given = model.to(device, ACTIVATIONS[precision]), x.to(device, ACTIVATIONS[precision])
            own = relative(model(given), expected)
        with dispatch.use("triton:int8" if precision == "w8a16" else "triton"):
            found = model(given)
            error = relative(found, expected)
            within = error <= MODEL_BARS[precision] and (precision == "w8a16" or error <= FACTOR * own)
            rows = [{**row, "error": error, "torch": own, "ok": within, "note": ""}]
            if device == "cuda":
                given.copy_(given.flip(0))
                replay, output = graph(model, given)
                replay()
                apart = relative(output.flip(0), expected)
                row["what"] = f"{name} logits, CUDA graph"
                rows.append({**row, "error": apart, "torch": own, "ok": apart <= 1.01 * error + 1e-6, "note": ""})
        return rows
    except Exception as problem:
        return [{**row, "error": float("nan"), "torch": float("nan"), "ok": False, "note": _short(problem)}]


def graph(model: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Run, Tensor]:
    """A captured forward pass: its replay, and the tensor that it writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        output = model(x)
    return captured.replay, output


#: Mode -> (kernels, compiled, captured in a CUDA graph).
MODES = {
    "eager": ("eager", False, False),
    "eager + graph": ("eager", False, True),
    "sdpa": ("sdpa", False, False),
    "sdpa + graph": ("sdpa", False, True),
    "compiled": ("sdpa", True, False),
    "compiled + graph": ("sdpa", True, True),
    "fused": ("triton", False, False),
    "fused + graph": ("triton", False, True),
    "w8a16": ("triton:int8", False, False),
    "w8a16 + graph": ("triton:int8", False, True),
}


def bench_kernels(
    device: str, names: list[str], batches: list[int], times_ms: Callable[..., list[float]]
) -> list[dict[str, Any]]:
    """Times of the pyramid alone and of whole models in every mode; weights differ in every depth."""
    rows = []
    for name in names:
        model = random_model(name).to(device, torch.float16 if device == "cuda" else torch.float32)
        for batch in batches:
            for what, module, inputs in _parts(name, model, batch, device):
                for mode in MODES if device == "cuda" else ("eager", "sdpa", "fused"):
                    rows.append(
                        {"what": what, "batch": batch, "mode": mode, **_timed(mode, module, inputs, device, times_ms)}
                    )
    return rows


def _parts(name: str, model: Poster, batch: int, device: str) -> list[tuple[str, nn.Module, list[Tensor]]]:
    dtype, side, config = model.head.linear.weight.dtype, model.config.input_size, model.config
    size = (batch, config.tokens // 2 - 1, config.dims[0])
    tokens = [torch.randn(size, device=device, dtype=dtype) for _ in range(2)]
    image = torch.randn(batch, 3, side, side, device=device, dtype=dtype)
    return [(f"{name} transformer", model.pyramid_fuse, tokens), (name, model, [image])]


@torch.inference_mode()
def _timed(
    mode: str, module: nn.Module, inputs: list[Tensor], device: str, times_ms: Callable[..., list[float]]
) -> dict[str, Any]:
    """Percentiles in ms of one mode, or why there are none."""
    kernels, compiled, captured = MODES[mode]
    try:
        with dispatch.use(kernels):
            # Shapes are few: compiled for each, without CUDA graphs of its own.
            call = torch.compile(module, dynamic=False) if compiled else module
            run: Run = lambda: call(*inputs)  # noqa: E731
            if captured:
                run, _ = graph(lambda first: call(first, *inputs[1:]), inputs[0])
            values = sorted(times_ms(run, device, 1.0))
    except Exception as problem:
        return {"p5_ms": "", "p50_ms": "", "p95_ms": "", "runs": 0, "note": _short(problem)}
    n = len(values) - 1
    return {
        "p5_ms": values[int(0.05 * n)],
        "p50_ms": statistics.median(values),
        "p95_ms": values[int(0.95 * n)],
        "runs": len(values),
        "note": "",
    }


def _short(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[-1][:160] if lines else ''}"
