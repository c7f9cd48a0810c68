"""k2, k3, k4: the linear layers, each with what stands before and after it.

One program serves one tile of rows of one stream, and one slab of columns of one level: a head's width.
"""

import triton
import triton.language as tl

from poster_edge.kernels.triton.common import linear_tile, row_stats, store_partials, stream_rows


# Reference: reference.project, then reference.partials.
@triton.jit(do_not_specialize=["batch"])
def project_kernel(
    p_x,  # (B, T, W) residual stream
    p_attended,  # (B, T, W)
    p_proj,
    p_proj_scale,
    p_proj_bias,
    p_y,  # out (B, T, W)
    p_y_partials,  # out (B, T, L, H, 2) float32
    batch,
    N: tl.constexpr,
    H: tl.constexpr,
    D0: tl.constexpr,
    L: tl.constexpr,
    BM: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Projection, residual and LayerNorm partials; grid (L·2·H, tiles of B·N rows)."""
    program = tl.program_id(0)
    stream = (program // H) % 2
    head = program % H
    b_row, m_row = stream_rows(tl.program_id(1), stream, batch, N, BM)
    W: tl.constexpr = 2 * D0 - ((2 * D0) >> L)
    for LEVEL in tl.static_range(L):
        if program // (2 * H) == LEVEL:
            D: tl.constexpr = D0 >> LEVEL
            C: tl.constexpr = D // H
            COLUMN: tl.constexpr = 2 * D0 - ((2 * D0) >> LEVEL)
            SQUARES: tl.constexpr = (4 * D0 * D0 - ((4 * D0 * D0) >> (2 * LEVEL))) // 3
            p_weight = p_proj + 2 * SQUARES + (stream * D + head * C) * D
            b_acc = linear_tile(p_attended, b_row * W + COLUMN, m_row, p_weight, 0, 0, D, BM, C, BLOCK_K, False)
            o_column = COLUMN + head * C + tl.arange(0, C)
            o_y = b_row[:, None] * W + o_column[None, :]
            b_acc = b_acc * tl.load(p_proj_scale + stream * W + o_column)[None, :]
            b_acc = b_acc + tl.load(p_proj_bias + stream * W + o_column)[None, :]
            b_acc = b_acc + tl.load(p_x + o_y, mask=m_row[:, None], other=0.0).to(tl.float32)
            # As k3 and k4 will read it.
            b_y = b_acc.to(p_y.dtype.element_ty)
            tl.store(p_y + o_y, b_y, mask=m_row[:, None])
            store_partials(p_y_partials, b_y.to(tl.float32), b_row, m_row, head, LEVEL, C, H, L)


# Reference: reference.expand.
@triton.jit(do_not_specialize=["batch"])
def expand_kernel(
    p_y,  # (B, T, W)
    p_y_partials,  # (B, T, L, H, 2) float32
    p_fc1,
    p_fc1_scale,
    p_fc1_bias,
    p_hidden,  # out (B, T, R·W)
    batch,
    N: tl.constexpr,
    H: tl.constexpr,
    D0: tl.constexpr,
    L: tl.constexpr,
    R: tl.constexpr,
    EPS: tl.constexpr,
    BM: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """LayerNorm, first layer of the MLP, exact GELU; grid (L·2·R·H, tiles of B·N rows)."""
    program = tl.program_id(0)
    stream = (program // (R * H)) % 2
    slab = program % (R * H)
    b_row, m_row = stream_rows(tl.program_id(1), stream, batch, N, BM)
    W: tl.constexpr = 2 * D0 - ((2 * D0) >> L)
    for LEVEL in tl.static_range(L):
        if program // (2 * R * H) == LEVEL:
            D: tl.constexpr = D0 >> LEVEL
            C: tl.constexpr = D // H
            COLUMN: tl.constexpr = 2 * D0 - ((2 * D0) >> LEVEL)
            SQUARES: tl.constexpr = (4 * D0 * D0 - ((4 * D0 * D0) >> (2 * LEVEL))) // 3
            p_weight = p_fc1 + 2 * R * SQUARES + (stream * R * D + slab * C) * D
            b_mean, b_rstd = row_stats(p_y_partials, b_row, m_row, LEVEL, D0, H, L, EPS)
            b_acc = linear_tile(p_y, b_row * W + COLUMN, m_row, p_weight, b_mean, b_rstd, D, BM, C, BLOCK_K, True)
            o_column = R * COLUMN + slab * C + tl.arange(0, C)
            b_acc = b_acc * tl.load(p_fc1_scale + stream * R * W + o_column)[None, :]
            b_acc = b_acc + tl.load(p_fc1_bias + stream * R * W + o_column)[None, :]
            b_acc = 0.5 * b_acc * (1.0 + tl.erf(b_acc * 0.7071067811865476))
            o_hidden = b_row[:, None] * (R * W) + o_column[None, :]
            tl.store(p_hidden + o_hidden, b_acc.to(p_hidden.dtype.element_ty), mask=m_row[:, None])


# Reference: reference.contract.
@triton.jit(do_not_specialize=["batch"])
def contract_kernel(
    p_y,  # (B, T, W)
    p_hidden,  # (B, T, R·W)
    p_fc2,
    p_fc2_scale,
    p_fc2_bias,
    p_z,  # out (B, T, W)
    batch,
    N: tl.constexpr,
    H: tl.constexpr,
    D0: tl.constexpr,
    L: tl.constexpr,
    R: tl.constexpr,
    BM: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Second layer of the MLP and the residual; grid (L·2·H, tiles of B·N rows)."""
    program = tl.program_id(0)
    stream = (program // H) % 2
    head = program % H
    b_row, m_row = stream_rows(tl.program_id(1), stream, batch, N, BM)
    W: tl.constexpr = 2 * D0 - ((2 * D0) >> L)
    for LEVEL in tl.static_range(L):
        if program // (2 * H) == LEVEL:
            D: tl.constexpr = D0 >> LEVEL
            C: tl.constexpr = D // H
            COLUMN: tl.constexpr = 2 * D0 - ((2 * D0) >> LEVEL)
            SQUARES: tl.constexpr = (4 * D0 * D0 - ((4 * D0 * D0) >> (2 * LEVEL))) // 3
            p_weight = p_fc2 + 2 * R * SQUARES + (stream * D + head * C) * (R * D)
            o_hidden = b_row * (R * W) + R * COLUMN
            b_acc = linear_tile(p_hidden, o_hidden, m_row, p_weight, 0, 0, R * D, BM, C, BLOCK_K, False)
            o_column = COLUMN + head * C + tl.arange(0, C)
            o_z = b_row[:, None] * W + o_column[None, :]
            b_acc = b_acc * tl.load(p_fc2_scale + stream * W + o_column)[None, :]
            b_acc = b_acc + tl.load(p_fc2_bias + stream * W + o_column)[None, :]
            b_acc = b_acc + tl.load(p_y + o_z, mask=m_row[:, None], other=0.0).to(tl.float32)
            tl.store(p_z + o_z, b_acc.to(p_z.dtype.element_ty), mask=m_row[:, None])
