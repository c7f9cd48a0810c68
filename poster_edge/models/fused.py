"""POSTER's pyramid on the fused kernels, in inference; training and export never come here.

Packed weights are kept beside their module and packed again once a weight has changed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from poster_edge.errors import UnavailableError
from poster_edge.kernels import chain, dispatch
from poster_edge.kernels.attention import exporting
from poster_edge.kernels.pack import PackedDepth, pack
from poster_edge.kernels.shape import FusionShape

if TYPE_CHECKING:
    from poster_edge.models.fusion import PyramidFusion

#: What tells whether a parameter is still the one that was packed: identity, memory, version.
_Mark = tuple[int, int, int]
_packed: WeakKeyDictionary[nn.Module, dict[str, tuple[list[_Mark], list[PackedDepth]]]] = WeakKeyDictionary()


def fused_readout(fusion: PyramidFusion, levels: list[Tensor]) -> Tensor | None:
    """The widest level's first token (B, D) after all depths, or None where PyTorch is to compute it.

    Args:
        fusion: the pyramid.
        levels: (B, T, D_i), widest first.

    Raises:
        UnavailableError: fused kernels were asked for by name and cannot serve.
    """
    # In this order: torch.compile cannot trace the look at a context variable, and would break the graph there.
    if torch.compiler.is_compiling() or exporting() or torch._C._is_tracing():
        return None
    name, int8 = dispatch.parse(dispatch.asked())
    if not fusion.config.as_published:
        if name != "auto" and dispatch.BACKENDS[name].launcher is not None:
            raise UnavailableError(
                f"kernels '{name}' were asked for and cannot serve: they compute the published cross-fusion, and "
                f"{fusion.config.variant} is another ({fusion.config.description})"
            )
        return None
    call = describe(fusion, levels, int8=int8)
    backend = dispatch.choose(call, backend=name)
    if backend.launcher is None:
        return None
    try:
        with _current(call.device):
            first = chain.run(levels, packed_depths(fusion, call.precision), backend.launcher())
        dispatch.note(f"{backend.name}:int8" if int8 else backend.name)
        return first
    except Exception as error:
        if name != "auto":
            raise
        dispatch.give_up(backend.name, error)
        return None


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Kernels are launched on the current GPU, which need not be the one where the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def describe(fusion: PyramidFusion, levels: list[Tensor], *, int8: bool = False) -> dispatch.Call:
    """What a forward pass on these levels (B, T, D_i) asks of the kernels."""
    first = levels[0]
    return dispatch.Call(
        shape=fusion_shape(fusion),
        batch=first.shape[0],
        dtype=first.dtype,
        device=first.device,
        training=fusion.training or torch.is_grad_enabled(),
        int8=int8,
        # torch knows no autocast for "meta", on which models are only counted.
        autocast=first.device.type != "meta" and torch.is_autocast_enabled(first.device.type),
    )


def fusion_shape(fusion: PyramidFusion) -> FusionShape:
    """Sizes of a pyramid's depths."""
    config = fusion.config
    return FusionShape(config.tokens // 2, config.heads, config.dims, config.mix, config.mlp_ratio)


def packed_depths(fusion: PyramidFusion, precision: str) -> list[PackedDepth]:
    """Every depth's weights, packed once and again after a change.

    Args:
        fusion: the pyramid, on the device on which the kernels are to run.
        precision: key of :data:`poster_edge.kernels.pack.ACTIVATIONS`.
    """
    kept = _packed.setdefault(fusion, {})
    marks = [_mark(p) for p in fusion.blocks.parameters()]
    if precision not in kept or kept[precision][0] != marks:
        shape = fusion_shape(fusion)
        with torch.no_grad():
            depths = [
                pack(stage.state_dict(), heads=shape.heads, precision=precision, shape=shape) for stage in fusion.blocks
            ]
        kept[precision] = (marks, depths)
    return kept[precision][1]


def _mark(parameter: Tensor) -> _Mark:
    version = 0 if parameter.is_inference() else parameter._version
    return id(parameter), parameter.data_ptr(), version
