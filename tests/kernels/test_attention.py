"""Fused attention against the spelled-out one, and the switch between them."""

from __future__ import annotations

import pytest
import torch

from poster_edge.kernels.attention import attention, attention_reference, exportable

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 50, 64), (2, 8, 50, 16), (3, 2, 37, 32), (1, 1, 1, 16)], ids=str)
def test_fused_equals_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(3))
    scale = shape[-1] ** -0.5
    expected = attention_reference(q.double(), k.double(), v.double(), scale=scale)
    assert torch.allclose(attention(q, k, v, scale=scale).double(), expected, atol=TOLERANCE[dtype])
    with exportable():
        assert torch.equal(attention(q, k, v, scale=scale), attention_reference(q, k, v, scale=scale))


def test_gradients_agree() -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(2, 2, 37, 16, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3)
    )
    grads = [
        torch.autograd.grad(f(q, k, v, scale=0.25).square().sum(), (q, k, v)) for f in (attention, attention_reference)
    ]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*grads, strict=True))
