"""The fused kernels' part of ``gpu.py check``: numerics of kernels, depths, whole models, and of what is built ahead.

Every row stands alone: what fails becomes a row that names its error, and the rest goes on.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kernel_cases as cases
import torch
from gpu_common import Row, attempt, exact_float32, relative
from torch import Tensor

from poster_edge.kernels import dispatch, reference
from poster_edge.kernels.numerics import BARS, FACTOR, widened
from poster_edge.kernels.numerics import Row as Comparison
from poster_edge.kernels.pack import ACTIVATIONS, pack
from poster_edge.models.config import CONFIGS
from poster_edge.models.fused import fusion_shape, packed_depths
from poster_edge.models.poster import Poster

Run = Callable[[], Any]
#: Largest relative L2 error of a whole model's logits, backbones included; what rounding INT8 weights costs by itself
#: comes on top where it is more, see :func:`model_bar`.
MODEL_BARS = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2, "w8a16": 1e-2}
#: Below this two whole models cannot be told apart: each rounds in its own order.
_MODEL_FLOORS = {"fp32": 2e-6, "fp16": 1e-3, "bf16": 8e-3, "w8a16": 1e-3}


def random_model(name: str) -> Poster:
    """A model whose weights, biases and norms are all away from their start."""
    torch.manual_seed(0)
    model = Poster(CONFIGS[name]).eval().requires_grad_(False)
    for value in model.pyramid_fuse.parameters():
        value.add_(torch.randn_like(value) * 0.02)
    return model


def images(model: Poster, batch: int) -> Tensor:
    """Noise of a model's size (B, 3, S, S), the same every time."""
    side = model.config.input_size
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(2))


def precisions(device: str) -> list[str]:
    """What can be checked: Triton's interpreter multiplies bfloat16 wrongly."""
    return list(BARS) if device == "cuda" else ["fp32", "fp16", "w8a16"]


def _as_rows(found: list[Comparison]) -> Iterator[Row]:
    for r in found:
        what = f"{r.case} {r.kernel} {r.level} batch {r.batch}"
        row = {"what": what, "precision": r.precision, "error": r.error, "torch": r.torch_error}
        yield {**row, "ok": r.ok, "note": r.note}


@torch.no_grad()
def nano_rows(device: str) -> Iterator[Row]:
    """Each kernel and a depth of poster-nano, with and without token mixing; outputs poisoned with NaN."""
    exact_float32()
    small = ["nano", "no-mix"] if device == "cuda" else ["nano"]
    batches = cases.BATCHES if device == "cuda" else (1,)
    for batch in batches:
        yield from _as_rows(
            cases.numerics(small, device=device, precisions=precisions(device), batches=(batch,), folder=None)
        )


@torch.no_grad()
def poster_rows(device: str) -> Iterator[Row]:
    """Each kernel and a depth of POSTER, then all its depths at the logits.

    With ``official_weights.py`` in the folder "carry" the weights are those, else random ones.
    """
    exact_float32()
    folder = cases.ROOT / "carry"
    if (folder / "official_weights.py").is_file():
        model, x = cases.golden(folder)
        x = torch.cat([x, images(model, 1)])
    else:
        model = random_model("poster")
        x = images(model, 3)
    levels = cases.pyramid(model, x)
    first, launch, checked = model.pyramid_fuse.blocks[0], cases.launcher(), precisions(device)
    for batch in (1, 3):
        given = [t[:batch] for t in levels]
        yield from _as_rows(
            list(
                cases.stage_rows(first, given, case="poster", heads=8, device=device, precisions=checked, launch=launch)
            )
        )
    model.float()
    yield from _as_rows(cases.logits_rows(model, x, device=device, precisions=checked, launch=launch))


def model_rows(device: str, name: str) -> Iterator[Row]:
    """Logits of a whole model through the dispatcher, beside eager's: alone, on another stream, in a CUDA graph."""
    exact_float32()
    for precision in precisions(device):
        what = f"{name} logits, dispatched"
        yield from attempt(what, lambda p=precision: _dispatched(name, p, device), precision=precision)  # type: ignore[misc]


@functools.cache
@torch.no_grad()
def _exact_logits(name: str) -> Tensor:
    model = random_model(name)
    with dispatch.use("eager"):
        return model.double()(images(model, 2).double())  # type: ignore[no-any-return]


@functools.cache
@torch.no_grad()
def rounding(name: str, batch: int = 2) -> float:
    """Error of the logits with exact arithmetic on INT8 weights: the weights' affair, no kernel's."""
    model = random_model(name)
    levels = cases.pyramid(model, images(model, batch))
    fusion, tail = model.pyramid_fuse, model.double()

    def logits(precision: str) -> Tensor:
        x = reference.join_levels(levels)
        for depth in packed_depths(fusion, precision):
            x = reference.depth(x, widened(depth))
        first = x[:, 0, : fusion.config.dims[0]]
        return tail.head(tail.se_block(fusion.norm(first)))  # type: ignore[no-any-return]

    return relative(logits("w8a16"), logits("fp64"))


def model_bar(name: str, precision: str, batch: int = 2) -> float:
    """Largest relative L2 error of a whole model's logits for so many images."""
    if precision != "w8a16":
        return MODEL_BARS[precision]
    return max(MODEL_BARS[precision], math.hypot(rounding(name, batch), MODEL_BARS["fp16"]))


def _dispatched(name: str, precision: str, device: str) -> Iterator[Row]:
    model = random_model(name)
    x, expected = images(model, 2), _exact_logits(name)
    dtype = ACTIVATIONS[precision]
    model, given = model.to(device, dtype), x.to(device, dtype)
    with torch.inference_mode():
        with dispatch.use("eager"):
            own = relative(model(given), expected)
        with dispatch.use("triton:int8" if precision == "w8a16" else "triton"):
            found = model(given)
            error = relative(found, expected)
            within = error <= model_bar(name, precision) and (
                precision == "w8a16" or error <= FACTOR * max(own, _MODEL_FLOORS[precision])
            )
            row = {"precision": precision, "error": error, "torch": own}
            yield {"what": f"{name} logits, dispatched", **row, "ok": within, "note": ""}
            if device != "cuda":
                return
            # The backbones' convolutions may be computed in another way; what is stale or unwritten is far off.
            same = 0.5 * MODEL_BARS[precision]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                beside = model(given)
            stream.synchronize()
            row["error"] = relative(beside, found)
            yield {"what": f"{name} another stream, against the first", **row, "ok": row["error"] <= same, "note": ""}
            replay, output = capture(lambda: model(given))
            # New contents in the same memory: what was captured must read them.
            given.copy_(given.flip(0))
            direct = model(given).clone()
            output.fill_(torch.nan)
            replay()
            row["error"] = relative(output, direct)
            yield {"what": f"{name} CUDA graph, against direct", **row, "ok": row["error"] <= same, "note": ""}


def capture(call: Callable[[], Tensor]) -> tuple[Run, Tensor]:
    """A captured call: its replay, and the tensor that it writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        output = call()
    return captured.replay, output


@torch.no_grad()
def k1_rows(device: str) -> Iterator[Row]:
    """The CUDA C++ kernel, built by nvcc for this GPU, against float64; with measured and with given row sums."""
    from poster_edge.kernels.cuda.launch import K1
    from poster_edge.kernels.cuda.problem import K1Weights

    with tempfile.TemporaryDirectory() as cache:
        kernel = K1(cache=Path(cache))
    for name in ("poster-nano", "poster"):
        stage, heads = random_model(name).pyramid_fuse.blocks[0], CONFIGS[name].heads
        half, exact = (pack(stage.state_dict(), heads=heads, precision=p) for p in ("fp16", "fp64"))
        weights = K1Weights.from_packed(half).to(device)
        for batch in (1, 3, 8):
            size = (batch, half.shape.tokens, half.shape.width)
            x = (torch.randn(size, generator=torch.Generator().manual_seed(batch)) * 1.5 + 0.3).half()
            expected = reference.attend(x.double(), exact)
            own = relative(reference.attend(x, half), expected)
            sums = reference.partials(x.float(), half.shape).contiguous().to(device)
            for partials, label in ((None, "own sums"), (sums, "given sums")):
                error = relative(kernel(x.to(device), weights, partials=partials), expected)
                row = {"what": f"CUDA k1 {name} batch {batch}, {label}", "precision": "fp16", "error": error}
                yield {**row, "torch": own, "ok": error <= BARS["fp16"] and error <= FACTOR * own, "note": ""}


def aot_rows(device: str, name: str, precision: str) -> Iterator[Row]:
    """Kernels built ahead for this GPU, then run by the back end "cuda" without Triton, against Triton's."""
    from poster_edge.kernels.aot import build_folder

    model = random_model(name)
    major, minor = torch.cuda.get_device_capability()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kernels"
        shape = fusion_shape(model.pyramid_fuse)
        build_folder(folder, shape, [10 * major + minor], model=name, precision=precision, cache=Path(scratch))
        os.environ[dispatch.FOLDER] = str(folder)
        dtype, ending = ACTIVATIONS[precision], ":int8" if precision == "w8a16" else ""
        model.to(device, dtype)
        same = 0.5 * MODEL_BARS[precision]
        for batch in (1, 3):
            x = images(model, batch).to(device, dtype)
            with torch.inference_mode():
                with dispatch.use(f"triton{ending}"):
                    expected = model(x)
                with dispatch.use(f"cuda{ending}"):
                    error = relative(model(x), expected)
                    replay, output = capture(lambda x=x: model(x))  # type: ignore[misc]
                    output.fill_(torch.nan)
                    replay()
            row = {"what": f"{name} built ahead batch {batch}, against Triton's", "precision": precision}
            yield {**row, "error": error, "ok": error <= same, "note": ""}
            apart = relative(output, expected)
            row["what"] = f"{name} built ahead batch {batch}, CUDA graph"
            yield {**row, "error": apart, "ok": apart <= same, "note": ""}
