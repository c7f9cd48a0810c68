"""Weights stored in FP16: files of half the size.  Whatever reads them computes in float32 again."""

from __future__ import annotations

import torch
from torch import Tensor

from poster_edge.errors import InputError


def to_half(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """Weights rounded to FP16, integers as they are, and the largest change of a tensor over its largest value.

    Raises:
        InputError: a value is beyond FP16's range; names its entry.
    """
    out, worst = dict(state), 0.0
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        out[name] = tensor.half()
        if not torch.isfinite(out[name]).all():
            raise InputError(f"{name}: {tensor.abs().max():g} is beyond FP16's range (65504); it cannot be halved")
        peak = float(tensor.abs().max()) if tensor.numel() else 0.0
        if peak:
            worst = max(worst, float((out[name].float() - tensor.float()).abs().max()) / peak)
    return out, worst


def as_small_as_exact(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in FP16 where that holds every one of them exactly, as when they come from such a file."""
    floats = [t for t in state.values() if t.is_floating_point()]
    exact = all(torch.equal(t.half().to(t.dtype), t) for t in floats)
    return {n: t.half() if t.is_floating_point() else t for n, t in state.items()} if exact else state
