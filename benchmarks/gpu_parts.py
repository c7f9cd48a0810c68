"""What ``gpu.py bench`` times: POSTER's transformer, whole models, and every way to compute them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from gpu_kernels import capture, images, model_bar, random_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from poster_edge.kernels import dispatch
from poster_edge.models.fused import packed_depths
from poster_edge.models.fusion import PyramidFusion
from poster_edge.models.poster import Poster

#: Mode -> (kernels, captured in a CUDA graph); those of torch.compile run in processes of their own.
MODES = {
    "eager": ("eager", False),
    "eager + graph": ("eager", True),
    "sdpa": ("sdpa", False),
    "sdpa + graph": ("sdpa", True),
    "fused": ("triton", False),
    "fused + graph": ("triton", True),
    "w8a16": ("triton:int8", False),
    "w8a16 + graph": ("triton:int8", True),
}
#: Largest relative L2 error against float32; above it a mode is not timed.
BARS = {"w8a16": 1e-2, "": 5e-3}


@dataclass(frozen=True)
class Part:
    """A module on fixed inputs.

    Attributes:
        what: "poster transformer", "poster", "poster-nano".
        batch: B.
        module: the network, or its pyramid.
        inputs: what it is called with.
        pyramid: the part that the fused kernels serve.
    """

    what: str
    batch: int
    module: nn.Module
    inputs: list[Tensor]
    pyramid: PyramidFusion

    def bar(self, mode: str) -> float:
        """Largest error of a mode; of a whole model in INT8 weights what rounding those costs comes on top."""
        if not mode.startswith("w8a16"):
            return BARS[""]
        if self.what.endswith("transformer"):
            return BARS["w8a16"]
        # In float64 on the CPU: of many images a few stand for all.
        return model_bar(self.what, "w8a16", min(self.batch, 8))


def load(name: str, device: str) -> Poster:
    """A model with weights that differ in every depth, as it is timed."""
    return random_model(name).to(device, torch.float16 if device == "cuda" else torch.float32)


def part(what: str, batch: int, model: Poster, device: str) -> Part:
    """One part of a model on random tokens or images."""
    dtype, config = model.head.linear.weight.dtype, model.config
    if what.endswith("transformer"):
        generator = torch.Generator().manual_seed(3)
        size = (batch, config.tokens // 2 - 1, config.dims[0])
        tokens = [torch.randn(size, generator=generator).to(device, dtype) for _ in range(2)]
        return Part(what, batch, model.pyramid_fuse, tokens, model.pyramid_fuse)
    return Part(what, batch, model, [images(model, batch).to(device, dtype)], model.pyramid_fuse)


@torch.no_grad()
def expected(p: Part) -> Tensor:
    """The exact result for these (rounded) weights, near enough: float32 without TF32, eager."""
    # A copy: captured graphs read the module's own weights where they are.
    with dispatch.use("eager"):
        return copy.deepcopy(p.module).float()(*(t.float() for t in p.inputs))  # type: ignore[no-any-return]


def callable_for(p: Part, mode: str) -> tuple[Callable[[], Any], Tensor]:
    """A mode's call, and what one call gave."""
    kernels, captured = MODES[mode]

    def call() -> Tensor:
        with dispatch.use(kernels):
            return p.module(*p.inputs)  # type: ignore[no-any-return]

    if not captured:
        return call, call()
    replay, output = capture(call)
    output.fill_(torch.nan)
    replay()
    return replay, output


def flops(p: Part) -> float:
    """Floating-point operations of one call, two for a multiply-add: products and convolutions alone."""
    with FlopCounterMode(display=False) as counter, dispatch.use("eager"):
        p.module(*p.inputs)
    return float(counter.get_total_flops())


def nbytes(p: Part, mode: str) -> float:
    """The fewest bytes of one call: weights that are read once, inputs and logits or feature."""
    dead = ("cls_token", *getattr(p.module, "dead_prefixes", ()))
    alive = {n: t.nbytes for n, t in p.module.named_parameters() if not n.startswith(dead)}
    total = float(sum(alive.values()) + sum(t.nbytes for t in p.inputs))
    if mode.startswith("w8a16"):
        total -= sum(t.nbytes for t in p.pyramid.blocks.parameters())
        total += sum(d.nbytes() for d in packed_depths(p.pyramid, "w8a16"))
    return total


def quiet() -> AbstractContextManager[Any]:
    """Inference without gradients or version counters."""
    return torch.inference_mode()
