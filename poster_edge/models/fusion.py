"""Pyramid cross-fusion transformer: the part of POSTER in which the two streams meet.

Source: Zheng et al., "POSTER" (2022), eq. 3-5 and Fig. 3, as the authors' code computes it: there
is no query projection, ``kv`` has a bias, and the landmark stream reads the block's *input*.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poster_edge.kernels.attention import attention
from poster_edge.models.fused import fused_readout
from poster_edge.models.layers import MLP, DropPath
from poster_edge.models.poster_config import PosterConfig

LN_EPS = 1e-6
LEVEL_NAMES = ("l", "m", "s", "x")


@torch.no_grad()
def keep_tokens(conv: nn.Conv1d | nn.ConvTranspose1d) -> nn.Conv1d | nn.ConvTranspose1d:
    """Start a convolution across tokens as one that keeps each token (averaged, or repeated).

    None of these convolutions has a residual path, so PyTorch's default start shuffles the tokens at
    every block and training has to undo it first.
    """
    # tokens x tokens x k
    kernel = conv.weight.shape[2]
    spread = 1.0 if isinstance(conv, nn.ConvTranspose1d) else 1.0 / kernel
    conv.weight.copy_(
        torch.eye(conv.weight.shape[0], device=conv.weight.device)[:, :, None].expand(-1, -1, kernel) * spread
    )
    if conv.bias is not None:
        conv.bias.zero_()
    return conv


class CrossAttention(nn.Module):
    """Multi-head attention whose queries are given, as published without a projection, by the other stream."""

    def __init__(self, dim: int, heads: int, *, q_proj: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        if q_proj:
            self.q = nn.Linear(dim, dim)
        self.q_proj = q_proj
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, source: Tensor, queries: Tensor) -> Tensor:
        """Attend from ``queries`` (B, N, D) to keys and values of ``source`` (B, N, D)."""
        batch, _, dim = source.shape
        q, k, v = self.heads_of(source, queries)
        out = attention(q, k, v, scale=self.scale)
        # B x H x N x D/H -> B x N x D
        return self.proj(out.transpose(1, 2).reshape(batch, -1, dim))

    def heads_of(self, source: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of every head, (B, H, N, D/H) each."""
        k, v = self.kv(source).chunk(2, dim=-1)
        q = self.q(queries) if self.q_proj else queries
        return self._split_heads(q), self._split_heads(k), self._split_heads(v)

    def _split_heads(self, x: Tensor) -> Tensor:
        batch, _, dim = x.shape
        # B x N x D -> B x H x N x D/H
        return x.reshape(batch, -1, self.heads, dim // self.heads).transpose(1, 2)


class CrossFusionBlock(nn.Module):
    """One block at one pyramid level on both streams: (B, 2n, D) -> (B, 2n, D), image first.

    Args:
        dim: D.
        config: of the network.
        drop_path: rate of stochastic depth.
        swap: a stream's queries come from the other stream (published), not from itself.
    """

    def __init__(self, dim: int, config: PosterConfig, drop_path: float, *, swap: bool = True) -> None:
        super().__init__()
        self.per_stream = config.per_stream
        self.swap = swap
        hidden = dim * config.mlp_ratio
        self.norm1 = nn.LayerNorm(dim, LN_EPS)
        self.attn_img = CrossAttention(dim, config.heads, q_proj=config.q_proj)
        self.attn_lm = CrossAttention(dim, config.heads, q_proj=config.q_proj)
        self.norm2 = nn.LayerNorm(dim, LN_EPS)
        self.mlp1 = MLP(dim, hidden)
        self.mlp2 = MLP(dim, hidden)
        self.norm3 = nn.LayerNorm(dim, LN_EPS)
        self.norm4 = nn.LayerNorm(dim, LN_EPS)
        self.drop_path = DropPath(drop_path)
        if config.mix:
            self.conv = keep_tokens(nn.Conv1d(config.tokens, config.tokens, 1))
        self.mix = config.mix

    def forward(self, z: Tensor) -> Tensor:
        n = self.per_stream
        image, landmark = z[:, :n], z[:, n:]
        normed1, normed3 = self.norm1(z), self.norm3(z)
        ask_image, ask_landmark = (normed1[:, n:], normed3[:, :n]) if self.swap else (normed1[:, :n], normed3[:, n:])
        image = image + self.drop_path(self.attn_img(normed1[:, :n], ask_image))
        image = image + self.drop_path(self.mlp1(self.norm2(image)))
        landmark = landmark + self.drop_path(self.attn_lm(normed3[:, n:], ask_landmark))
        landmark = landmark + self.drop_path(self.mlp2(self.norm4(landmark)))
        out = torch.cat((image, landmark), dim=1)
        return self.conv(out) if self.mix else out


class JointBlock(nn.Module):
    """Plain self-attention over all tokens of a level, of one stream or of both: (B, T, D) -> (B, T, D).

    What the paper's ablation compares cross-fusion with; like the published block it ends with the
    token-mixing convolution.
    """

    def __init__(self, dim: int, config: PosterConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, LN_EPS)
        self.attn = CrossAttention(dim, config.heads, q_proj=config.q_proj)
        self.norm2 = nn.LayerNorm(dim, LN_EPS)
        self.mlp = MLP(dim, dim * config.mlp_ratio)
        self.drop_path = DropPath(drop_path)
        if config.mix:
            self.conv = keep_tokens(nn.Conv1d(config.tokens, config.tokens, 1))
        self.mix = config.mix

    def forward(self, z: Tensor) -> Tensor:
        normed = self.norm1(z)
        z = z + self.drop_path(self.attn(normed, normed))
        z = z + self.drop_path(self.mlp(self.norm2(z)))
        return self.conv(z) if self.mix else z


class FusionStage(nn.Module):
    """One block per level, then each level is upsampled into the one above it."""

    def __init__(self, config: PosterConfig, drop_path: float, *, swap: bool = True) -> None:
        super().__init__()
        self.names = LEVEL_NAMES[: len(config.dims)]
        for name, dim in zip(self.names, config.dims, strict=True):
            block = (
                CrossFusionBlock(dim, config, drop_path, swap=swap)
                if config.crosses
                else JointBlock(dim, config, drop_path)
            )
            setattr(self, f"block_{name}", block)
        for name in self.names[1:]:
            # Tokens are the channels of this convolution; it doubles the width.
            setattr(self, f"upsample_{name}", keep_tokens(nn.ConvTranspose1d(config.tokens, config.tokens, 2, 2)))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels, widest first, each (B, 2n, D_i); returns the same shapes."""
        out = [getattr(self, f"block_{name}")(z) for name, z in zip(self.names, levels, strict=True)]
        for i in range(len(out) - 1, 0, -1):
            out[i - 1] = out[i - 1] + getattr(self, f"upsample_{self.names[i]}")(out[i])
        return out


class PyramidFusion(nn.Module):
    """Stacked fusion stages on a token pyramid; reads out the widest level's first token."""

    def __init__(self, config: PosterConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dims[0]
        if config.cls_token:
            # Stored in the published checkpoints, read by nothing.
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, config.per_stream, dim).normal_(std=0.02))
        self.names = LEVEL_NAMES[1 : len(config.dims)]
        for i, name in enumerate(self.names, start=1):
            setattr(self, f"downsample_{name}", keep_tokens(nn.Conv1d(config.tokens, config.tokens, 2**i, 2**i)))
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(FusionStage(config, rate, swap=config.swaps(i)) for i, rate in enumerate(rates))
        self.norm = nn.LayerNorm(dim, LN_EPS)

    def levels(self, image: Tensor | None, landmark: Tensor | None) -> list[Tensor]:
        """Build the pyramid from image and landmark tokens, both (B, n-1, D); None: the stream is not there.

        Positions are told to the stream that is read out.
        """
        first, *rest = [torch.cat((t.mean(dim=1, keepdim=True), t), dim=1) for t in (image, landmark) if t is not None]
        widest = torch.cat((first + self.pos_embed, *rest), dim=1)
        return [widest, *(getattr(self, f"downsample_{name}")(widest) for name in self.names)]

    def forward(self, image: Tensor | None, landmark: Tensor | None) -> Tensor:
        """Fuse both token sets, see :meth:`levels`, into one feature (B, D)."""
        levels = self.levels(image, landmark)
        first = fused_readout(self, levels)
        if first is not None:
            return self.norm(first)
        for stage in self.blocks:
            levels = stage(levels)
        return self.norm(levels[0])[:, 0]
