"""The oracle of the fused kernels: the same steps in plain PyTorch, one function per kernel.

They compute in the type of what they are given, so that a depth packed as "fp64" is exact.  Source:
Zheng et al., "POSTER" (2022), eq. 3-5; Vaswani et al. (2017), eq. 1; Ba et al., "Layer Normalization"
(2016), eq. 4.  Activations are rows of all levels, (B, T, W); see :mod:`poster_edge.kernels.shape`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from poster_edge.kernels.pack import PackedDepth
from poster_edge.kernels.shape import LN_EPS, FusionShape


def join_levels(levels: list[Tensor]) -> Tensor:
    """Levels (B, T, D_i), widest first, -> rows (B, T, W)."""
    return torch.cat(levels, dim=-1)


def split_levels(x: Tensor, shape: FusionShape) -> list[Tensor]:
    """Rows (B, T, W) -> levels (B, T, D_i)."""
    return list(torch.split(x, list(shape.dims), dim=-1))


def partials(x: Tensor, shape: FusionShape) -> Tensor:
    """LayerNorm's partial sums of every head's slab of columns.

    Args:
        x: rows (B, T, W).

    Returns:
        (B, T, L, H, 2): mean and M2 = Σ(x - mean)² of the slab.
    """
    out = []
    for level in split_levels(x, shape):
        # B x T x D -> B x T x H x D/H
        slabs = level.reshape(*level.shape[:2], shape.heads, -1)
        mean = slabs.mean(dim=-1)
        out.append(torch.stack((mean, (slabs - mean[..., None]).square().sum(dim=-1)), dim=-1))
    return torch.stack(out, dim=2)


def attend(x: Tensor, packed: PackedDepth) -> Tensor:
    """k1: LayerNorm of both streams, K and V of one, attention from the other's queries.

    Args:
        x: rows (B, T, W).

    Returns:
        (B, T, W): heads side by side, without V's constant, which the projection's bias holds.
    """
    shape, out = packed.shape, torch.empty_like(x)
    for i, _, columns in _levels(shape):
        normed = _normed(x[..., columns])
        for stream, rows, others in _streams(shape):
            k, v = F.linear(normed[:, rows], _weight(packed, "kv", i, stream)).chunk(2, dim=-1)
            factor, shift = packed.query[stream, :, columns].to(x.dtype)
            q = normed[:, others] * factor + shift
            # B x N x D -> B x H x N x D/H
            q, k, v = (t.reshape(*t.shape[:2], shape.heads, -1).transpose(1, 2) for t in (q, k, v))
            logits = q @ k.mT
            # The packed queries carry log2(e): softmax here is of powers of two.
            powers = torch.exp2(logits - logits.amax(dim=-1, keepdim=True))
            head = (powers / powers.sum(dim=-1, keepdim=True)) @ v
            # B x H x N x D/H -> B x N x D
            out[:, rows, columns] = head.transpose(1, 2).flatten(2)
    return out


def project(x: Tensor, attended: Tensor, packed: PackedDepth) -> Tensor:
    """k2: projection of the attention's output (B, T, W) and the residual."""
    return x + _linear(attended, packed, "proj")


def expand(y: Tensor, packed: PackedDepth) -> Tensor:
    """k3: LayerNorm, first linear layer of the MLP and exact GELU, (B, T, W) -> (B, T, R·W)."""
    shape = packed.shape
    normed = join_levels([_normed(level) for level in split_levels(y, shape)])
    return F.gelu(_linear(normed, packed, "fc1"))


def contract(y: Tensor, hidden: Tensor, packed: PackedDepth) -> Tensor:
    """k4: second linear layer of the MLP, (B, T, R·W) -> (B, T, W), and the residual."""
    return y + _linear(hidden, packed, "fc2")


def mix(z: Tensor, packed: PackedDepth) -> Tensor:
    """k5: token mixing at each level, then each level upsampled into the one above, (B, T, W)."""
    shape, t = packed.shape, packed.shape.tokens
    levels = split_levels(z, shape)
    for i in reversed(range(shape.levels)):
        if shape.mix:
            levels[i] = packed.mix[i, :t, :t] @ levels[i]
        levels[i] = levels[i] + packed.token_bias[i, :t, None].to(z.dtype)
        if i + 1 < shape.levels:
            even, odd = (packed.up[i, k, :t, :t] @ levels[i + 1] for k in range(2))
            # 2 of B x T x D/2 -> B x T x D, interleaved
            levels[i] = levels[i] + torch.stack((even, odd), dim=-1).flatten(2)
    return join_levels(levels)


def depth(x: Tensor, packed: PackedDepth) -> Tensor:
    """A whole depth on rows (B, T, W)."""
    y = project(x, attend(x, packed), packed)
    return mix(contract(y, expand(y, packed), packed), packed)


def _normed(x: Tensor) -> Tensor:
    """LayerNorm without scale and shift, which are folded into what follows."""
    return F.layer_norm(x, x.shape[-1:], eps=LN_EPS)


def _levels(shape: FusionShape) -> list[tuple[int, int, slice]]:
    """Level, width and its columns in a row of W."""
    return [(i, d, slice(shape.column(i), shape.column(i) + d)) for i, d in enumerate(shape.dims)]


def _streams(shape: FusionShape) -> list[tuple[int, slice, slice]]:
    """Stream, its rows and the other stream's rows."""
    n = shape.per_stream
    return [(0, slice(0, n), slice(n, 2 * n)), (1, slice(n, 2 * n), slice(0, n))]


def _weight(packed: PackedDepth, name: str, level: int, stream: int) -> Tensor:
    """One linear layer in the activations' type, (out, in); K's rows stand before V's."""
    shape, d = packed.shape, packed.shape.dims[level]
    outs, ins = {"kv": (2, 1), "proj": (1, 1), "fc1": (shape.ratio, 1), "fc2": (1, shape.ratio)}[name]
    begin = outs * ins * (2 * shape.squares(level) + stream * d * d)
    weight = getattr(packed, name)[begin : begin + outs * ins * d * d].reshape(outs * d, ins * d).to(packed.dtype)
    factors = outs if name == "fc1" else 1
    first = factors * shape.column(level)
    # 2 x D -> 2D for K and V
    scale = getattr(packed, f"{name}_scale")[stream, ..., first : first + factors * d].flatten()
    return weight * scale[:, None].to(packed.dtype)


def _linear(x: Tensor, packed: PackedDepth, name: str) -> Tensor:
    """One linear layer of every level and stream, (B, T, in) -> (B, T, out)."""
    shape, columns = packed.shape, []
    bias = getattr(packed, f"{name}_bias").to(x.dtype)
    factors = {"proj": (1, 1), "fc1": (1, shape.ratio), "fc2": (shape.ratio, 1)}[name]
    for i, d, _ in _levels(shape):
        begin, end = (f * shape.column(i) for f in factors)
        level = x[..., begin : begin + factors[0] * d]
        parts = [
            F.linear(level[:, rows], _weight(packed, name, i, s), bias[s, end : end + factors[1] * d])
            for s, rows, _ in _streams(shape)
        ]
        columns.append(torch.cat(parts, dim=1))
    return join_levels(columns)
