"""k1: LayerNorm of both streams, K and V of one of them, and attention from the other's queries.

One program serves one head of one stream of one level of one sample; its K and V never leave the chip.
"""

import triton
import triton.language as tl

from poster_edge.kernels.triton.common import row_stats


# Reference: reference.attend.
@triton.jit
def attend_kernel(
    p_x,  # (B, T, W) residual stream
    p_partials,  # (B, T, L, H, 2) float32
    p_kv,
    p_kv_scale,
    p_query,
    p_attended,  # out (B, T, W)
    N: tl.constexpr,
    H: tl.constexpr,
    D0: tl.constexpr,
    L: tl.constexpr,
    EPS: tl.constexpr,
    BN: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Grid (L·2·H, B), widest level first."""
    program = tl.program_id(0)
    sample = tl.program_id(1)
    for LEVEL in tl.static_range(L):
        if program // (2 * H) == LEVEL:
            _attend(
                p_x,
                p_partials,
                p_kv,
                p_kv_scale,
                p_query,
                p_attended,
                sample,
                (program // H) % 2,
                program % H,
                LEVEL,
                N,
                H,
                D0,
                L,
                EPS,
                BN,
                BLOCK_K,
            )


@triton.jit
def _attend(
    p_x,
    p_partials,
    p_kv,
    p_kv_scale,
    p_query,
    p_attended,
    sample,
    stream,
    head,
    LEVEL: tl.constexpr,
    N: tl.constexpr,
    H: tl.constexpr,
    D0: tl.constexpr,
    L: tl.constexpr,
    EPS: tl.constexpr,
    BN: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    D: tl.constexpr = D0 >> LEVEL
    C: tl.constexpr = D // H
    W: tl.constexpr = 2 * D0 - ((2 * D0) >> L)
    COLUMN: tl.constexpr = 2 * D0 - ((2 * D0) >> LEVEL)
    SQUARES: tl.constexpr = (4 * D0 * D0 - ((4 * D0 * D0) >> (2 * LEVEL))) // 3
    # Two steps at least: with one, Triton 3.6's warp-group products on sm_90 give wrong sums.
    BK: tl.constexpr = D // 2 if D <= BLOCK_K else BLOCK_K
    dtype: tl.constexpr = p_x.dtype.element_ty

    o_token = tl.arange(0, BN)
    m_token = o_token < N
    b_row = sample * 2 * N + stream * N + o_token
    b_other = sample * 2 * N + (1 - stream) * N + o_token
    o_head = COLUMN + head * C + tl.arange(0, C)

    b_mean, b_rstd = row_stats(p_partials, b_row, m_token, LEVEL, D0, H, L, EPS)
    # K rows of this head; V rows stand D rows further on.
    p_weight = p_kv + 4 * SQUARES + stream * 2 * D * D + head * C * D
    b_k = tl.zeros((BN, C), dtype=tl.float32)
    b_v = tl.zeros((BN, C), dtype=tl.float32)
    for k in range(0, D, BK):
        o_k = k + tl.arange(0, BK)
        b_x = tl.load(p_x + b_row[:, None] * W + COLUMN + o_k[None, :], mask=m_token[:, None], other=0.0)
        b_normed = ((b_x.to(tl.float32) - b_mean[:, None]) * b_rstd[:, None]).to(dtype)
        o_weight = tl.arange(0, C)[None, :] * D + o_k[:, None]
        b_k = tl.dot(b_normed, tl.load(p_weight + o_weight).to(dtype), b_k, input_precision="ieee")
        b_v = tl.dot(b_normed, tl.load(p_weight + D * D + o_weight).to(dtype), b_v, input_precision="ieee")
    p_scale = p_kv_scale + stream * 2 * W + o_head
    b_k = b_k * tl.load(p_scale)[None, :]
    b_v = b_v * tl.load(p_scale + W)[None, :]

    b_mean_q, b_rstd_q = row_stats(p_partials, b_other, m_token, LEVEL, D0, H, L, EPS)
    b_q = tl.load(p_x + b_other[:, None] * W + o_head[None, :], mask=m_token[:, None], other=0.0).to(tl.float32)
    p_affine = p_query + stream * 2 * W + o_head
    b_q = (b_q - b_mean_q[:, None]) * b_rstd_q[:, None] * tl.load(p_affine)[None, :] + tl.load(p_affine + W)[None, :]

    b_logits = tl.dot(b_q.to(dtype), tl.trans(b_k.to(dtype)), input_precision="ieee")
    b_logits = tl.where(m_token[None, :], b_logits, float("-inf"))
    b_power = tl.exp2(b_logits - tl.max(b_logits, axis=1)[:, None])
    b_sum = tl.sum(b_power, axis=1)
    b_out = tl.dot(b_power.to(dtype), b_v.to(dtype), input_precision="ieee") / b_sum[:, None]
    tl.store(p_attended + b_row[:, None] * W + o_head[None, :], b_out.to(dtype), mask=m_token[:, None])
