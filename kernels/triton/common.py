"""What the fused kernels share: LayerNorm from partial sums, and one tile of a linear layer.

Names: ``p_`` pointer, ``o_`` offset, ``m_`` mask, ``b_`` block of values; capitals are compile-time
constants: N tokens a stream, H heads, D0 width of the widest level, L levels, R MLP ratio.  A level's
width is ``D0 >> LEVEL`` and its first column ``2·D0 - (2·D0 >> LEVEL)``; widths of earlier levels
squared sum to ``(4·D0² - (4·D0² >> 2·LEVEL)) / 3``.

Local constants carry an annotation because Triton's interpreter turns every plain assignment into
a tensor.  This module and its siblings must not postpone annotations, which the compiler reads.
"""

import triton
import triton.language as tl


# Reference: reference.partials and the normalisation inside reference.attend and reference.expand.
@triton.jit
def row_stats(
    p_partials,
    b_row,
    m_row,
    LEVEL: tl.constexpr,
    D0: tl.constexpr,
    H: tl.constexpr,
    L: tl.constexpr,
    EPS: tl.constexpr,
):
    """Mean and 1/σ of rows from the (mean, M2) of their H slabs; rows masked out give mean 0."""
    C: tl.constexpr = (D0 >> LEVEL) // H
    o_part = ((b_row[:, None] * L + LEVEL) * H + tl.arange(0, H)[None, :]) * 2
    b_means = tl.load(p_partials + o_part, mask=m_row[:, None], other=0.0)
    b_m2 = tl.load(p_partials + o_part + 1, mask=m_row[:, None], other=0.0)
    b_mean = tl.sum(b_means, axis=1) / H
    b_apart = b_means - b_mean[:, None]
    # Chan et al. (1979): sums of squares add up once the slabs' means are taken into account.
    b_var = (tl.sum(b_m2, axis=1) + C * tl.sum(b_apart * b_apart, axis=1)) / (C * H)
    return b_mean, 1.0 / tl.sqrt(b_var + EPS)


# Reference: reference.partials.
@triton.jit
def store_partials(
    p_partials,
    b_value,
    b_row,
    m_row,
    head,
    LEVEL: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    L: tl.constexpr,
):
    """Write mean and M2 of each row of a slab (rows, C) in float32."""
    b_mean = tl.sum(b_value, axis=1) / C
    b_apart = b_value - b_mean[:, None]
    o_part = ((b_row * L + LEVEL) * H + head) * 2
    tl.store(p_partials + o_part, b_mean, mask=m_row)
    tl.store(p_partials + o_part + 1, tl.sum(b_apart * b_apart, axis=1), mask=m_row)


@triton.jit
def stream_rows(tile, stream, batch, N: tl.constexpr, BM: tl.constexpr):
    """Rows (of B·T) of one stream's tile, and which of them exist: streams of samples lie T apart."""
    o_token = tile * BM + tl.arange(0, BM)
    return (o_token // N) * (2 * N) + stream * N + o_token % N, o_token < batch * N


# Reference: torch.nn.functional.linear.
@triton.jit
def linear_tile(
    p_a,
    o_a,
    m_row,
    p_w,
    b_mean,
    b_rstd,
    IN: tl.constexpr,
    BM: tl.constexpr,
    C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NORM: tl.constexpr,
):
    """(BM, C) float32: rows at offsets ``o_a``, normed first where NORM, times C rows of weights at ``p_w``.

    INT8 weights are widened in registers; their scale belongs to the output column and is the caller's.
    """
    BK: tl.constexpr = IN if IN < BLOCK_K else BLOCK_K
    dtype: tl.constexpr = p_a.dtype.element_ty
    b_acc = tl.zeros((BM, C), dtype=tl.float32)
    o_out = tl.arange(0, C)
    for k in range(0, IN, BK):
        o_k = k + tl.arange(0, BK)
        b_a = tl.load(p_a + o_a[:, None] + o_k[None, :], mask=m_row[:, None], other=0.0)
        if NORM:
            b_a = ((b_a.to(tl.float32) - b_mean[:, None]) * b_rstd[:, None]).to(dtype)
        b_w = tl.load(p_w + o_out[None, :] * IN + o_k[:, None]).to(dtype)
        b_acc = tl.dot(b_a, b_w, b_acc, input_precision="ieee")
    return b_acc
