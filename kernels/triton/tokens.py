"""k5: token mixing and both upsamplings; and k0, which lays the pyramid out in rows.

A head's slab of columns is closed under all of k5: mixing works along the tokens, and columns c of a
level become columns 2c and 2c+1 of the level above, so small to wide stays inside one program.
"""

import triton
import triton.language as tl

from poster_edge.kernels.triton.common import store_partials


# Reference: reference.join_levels, then reference.partials.
@triton.jit(do_not_specialize=["batch"])
def enter_kernel(
    p_level0,  # (B, T, D0)
    p_level1,
    p_level2,
    p_x,  # out (B, T, W)
    p_partials,  # out (B, T, L, H, 2) float32
    batch,
    N: tl.constexpr,
    H: tl.constexpr,
    D0: tl.constexpr,
    L: tl.constexpr,
    BM: tl.constexpr,
):
    """Copy the levels into rows and take LayerNorm's partial sums; grid (L·H, tiles of B·T rows)."""
    program = tl.program_id(0)
    head = program % H
    b_row = tl.program_id(1) * BM + tl.arange(0, BM)
    m_row = b_row < batch * 2 * N
    W: tl.constexpr = 2 * D0 - ((2 * D0) >> L)
    for LEVEL in tl.static_range(L):
        if program // H == LEVEL:
            D: tl.constexpr = D0 >> LEVEL
            C: tl.constexpr = D // H
            COLUMN: tl.constexpr = 2 * D0 - ((2 * D0) >> LEVEL)
            o_head = head * C + tl.arange(0, C)
            o_level = b_row[:, None] * D + o_head[None, :]
            if LEVEL == 0:
                b_x = tl.load(p_level0 + o_level, mask=m_row[:, None], other=0.0)
            elif LEVEL == 1:
                b_x = tl.load(p_level1 + o_level, mask=m_row[:, None], other=0.0)
            else:
                b_x = tl.load(p_level2 + o_level, mask=m_row[:, None], other=0.0)
            tl.store(p_x + b_row[:, None] * W + COLUMN + o_head[None, :], b_x, mask=m_row[:, None])
            store_partials(p_partials, b_x.to(tl.float32), b_row, m_row, head, LEVEL, C, H, L)


# Reference: reference.mix, then reference.partials.
@triton.jit
def mix_kernel(
    p_z,  # (B, T, W)
    p_mix,
    p_up,
    p_token_bias,
    p_out,  # out (B, T, W), or (B, D0) where LAST
    p_partials,  # out (B, T, L, H, 2) float32; untouched where LAST
    N: tl.constexpr,
    H: tl.constexpr,
    D0: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    MIX: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Grid (H, B).  LAST: only the widest level's first token is ever read, so only it is written."""
    head = tl.program_id(0)
    sample = tl.program_id(1)
    b_acc = _mix_level(p_z, p_mix, p_token_bias, sample, head, L - 1, N, H, D0, L, P, MIX, BLOCK_K)
    b_low = _finish(b_acc, p_out, p_partials, sample, head, L - 1, N, H, D0, L, P, LAST)
    if L > 1:
        b_next = _mix_level(p_z, p_mix, p_token_bias, sample, head, L - 2, N, H, D0, L, P, MIX, BLOCK_K)
        b_next = b_next + _upsample(b_low, p_up, L - 2, P)
        b_mid = _finish(b_next, p_out, p_partials, sample, head, L - 2, N, H, D0, L, P, LAST)
        if L > 2:
            b_top = _mix_level(p_z, p_mix, p_token_bias, sample, head, L - 3, N, H, D0, L, P, MIX, BLOCK_K)
            b_top = b_top + _upsample(b_mid, p_up, L - 3, P)
            _finish(b_top, p_out, p_partials, sample, head, L - 3, N, H, D0, L, P, LAST)


@triton.jit
def _mix_level(
    p_z,
    p_mix,
    p_token_bias,
    sample,
    head,
    LEVEL: tl.constexpr,
    N: tl.constexpr,
    H: tl.constexpr,
    D0: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    MIX: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """(P, C) float32: one level's slab after mixing, with the bias; rows beyond T are 0."""
    C: tl.constexpr = (D0 >> LEVEL) // H
    W: tl.constexpr = 2 * D0 - ((2 * D0) >> L)
    COLUMN: tl.constexpr = 2 * D0 - ((2 * D0) >> LEVEL)
    BK: tl.constexpr = P if P < BLOCK_K else BLOCK_K
    o_token = tl.arange(0, P)
    p_slab = p_z + sample * 2 * N * W + COLUMN + head * C + tl.arange(0, C)[None, :]
    if MIX:
        b_acc = tl.zeros((P, C), dtype=tl.float32)
        for k in range(0, P, BK):
            o_k = k + tl.arange(0, BK)
            b_weight = tl.load(p_mix + LEVEL * P * P + o_token[:, None] * P + o_k[None, :])
            b_z = tl.load(p_slab + o_k[:, None] * W, mask=(o_k < 2 * N)[:, None], other=0.0)
            b_acc = tl.dot(b_weight, b_z, b_acc, input_precision="ieee")
    else:
        b_acc = tl.load(p_slab + o_token[:, None] * W, mask=(o_token < 2 * N)[:, None], other=0.0).to(tl.float32)
    return b_acc + tl.load(p_token_bias + LEVEL * P + o_token)[:, None]


@triton.jit
def _upsample(b_low, p_up, LEVEL: tl.constexpr, P: tl.constexpr):
    """(P, 2C) float32: the level below (P, C), mixed along the tokens into even and odd columns."""
    o_token = tl.arange(0, P)
    p_weight = p_up + LEVEL * 2 * P * P + o_token[:, None] * P + o_token[None, :]
    b_even = tl.dot(tl.load(p_weight), b_low, input_precision="ieee")
    b_odd = tl.dot(tl.load(p_weight + P * P), b_low, input_precision="ieee")
    return tl.interleave(b_even, b_odd)


@triton.jit
def _finish(
    b_acc,
    p_out,
    p_partials,
    sample,
    head,
    LEVEL: tl.constexpr,
    N: tl.constexpr,
    H: tl.constexpr,
    D0: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    LAST: tl.constexpr,
):
    """Round a level's slab as the next reader will see it, store it, and hand it on."""
    C: tl.constexpr = (D0 >> LEVEL) // H
    W: tl.constexpr = 2 * D0 - ((2 * D0) >> L)
    COLUMN: tl.constexpr = 2 * D0 - ((2 * D0) >> LEVEL)
    b_out = b_acc.to(p_out.dtype.element_ty)
    o_token = tl.arange(0, P)
    o_head = head * C + tl.arange(0, C)
    if LAST:
        if LEVEL == 0:
            o_first = sample * D0 + o_token[:, None] * 0 + o_head[None, :]
            tl.store(p_out + o_first, b_out, mask=(o_token == 0)[:, None])
    else:
        b_row = sample * 2 * N + o_token
        m_row = o_token < 2 * N
        tl.store(p_out + b_row[:, None] * W + COLUMN + o_head[None, :], b_out, mask=m_row[:, None])
        store_partials(p_partials, b_out.to(tl.float32), b_row, m_row, head, LEVEL, C, H, L)
    return b_out
