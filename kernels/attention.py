"""Scaled dot-product attention: the explicit maths and PyTorch's fused form, side by side.

Source: Vaswani et al., "Attention Is All You Need" (2017), eq. 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

from poster_edge.kernels.dispatch import asked, note

_FUSED: ContextVar[bool] = ContextVar("poster_edge_fused_attention", default=True)


@contextlib.contextmanager
def exportable() -> Iterator[None]:
    """Within this context attention is spelled out, so that an exported graph shows its products."""
    token = _FUSED.set(False)
    try:
        yield
    finally:
        _FUSED.reset(token)


def exporting() -> bool:
    """Whether this code runs inside :func:`exportable`."""
    return not _FUSED.get()


def attention_reference(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """softmax(scale·q kᵀ) v, spelled out; the oracle of every faster version.

    The scale is applied to ``q`` before the product: TensorRT fuses attention only in that form.

    Args:
        q: queries (B, H, N, D/H).
        k: keys (B, H, M, D/H).
        v: values (B, H, M, D/H).
        scale: factor on the logits.

    Returns:
        (B, H, N, D/H).
    """
    weights = ((q * scale) @ k.transpose(-2, -1)).softmax(dim=-1)
    return weights @ v


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Attention by PyTorch's fused kernel, or spelled out inside :func:`exportable` or where asked for.

    torch.compile always gets the fused kernel, or the spelled-out form where a gradient is wanted on the CPU: it
    cannot trace a look at what was asked for.  Shapes as in :func:`attention_reference`.
    """
    if torch.compiler.is_dynamo_compiling():
        if q.is_cuda or not q.requires_grad:
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        return attention_reference(q, k, v, scale=scale)
    if exporting():
        return attention_reference(q, k, v, scale=scale)
    name = asked()
    # On the CPU the fused kernel's backward pass is slower than the three plain operations (12 calls
    # on (128, 2, 37, 64) in bfloat16 took a third of poster-nano's training step).
    if name == "sdpa" or (name != "eager" and (q.is_cuda or not q.requires_grad)):
        note("sdpa")
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    note("eager")
    return attention_reference(q, k, v, scale=scale)
