"""FER-VT: grid-wise attention, a residual trunk, and a transformer on tokens of its last three maps.

Source: Huang et al., "Facial expression recognition with grid-wise attention and visual transformer"
(Information Sciences, 2021), Fig. 2.  The paper leaves several sizes open; what fills them is in
:mod:`poster_edge.models.fer_vt_config`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poster_edge.kernels.attention import attention
from poster_edge.models.fer_vt_config import TAPS, FerVtConfig
from poster_edge.models.grid_attention import LEAK, GridAttention
from poster_edge.models.layers import MLP, ClassificationHead
from poster_edge.models.network import Network
from poster_edge.models.resnet import ResNet


class SelfAttention(nn.Module):
    """Multi-head self-attention (B, N, D) -> (B, N, D) whose heads together may be wider than D."""

    def __init__(self, config: FerVtConfig) -> None:
        super().__init__()
        self.heads, self.scale = config.heads, config.head_dim**-0.5
        self.inner = config.heads * config.head_dim
        self.qkv = nn.Linear(config.dim, 3 * self.inner, bias=False)
        self.proj = nn.Linear(self.inner, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split_heads(part) for part in self.qkv(x).chunk(3, dim=-1))
        out = attention(q, k, v, scale=self.scale).transpose(1, 2)
        # B x N x H x Dh -> B x N x H·Dh
        return self.proj(out.reshape(x.shape[0], -1, self.inner))

    def _split_heads(self, x: Tensor) -> Tensor:
        # B x N x H·Dh -> B x H x N x Dh
        return x.reshape(x.shape[0], -1, self.heads, self.inner // self.heads).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Self-attention and an MLP, each normed before and added to what came in."""

    def __init__(self, config: FerVtConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.attn = SelfAttention(config)
        self.norm2 = nn.LayerNorm(config.dim)
        self.mlp = MLP(config.dim, config.dim * config.mlp_ratio, dropout=config.dropout)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class PyramidTokens(nn.Module):
    """Three maps of the trunk, brought to one shape and embedded: -> (B, 3, D)."""

    def __init__(self, config: FerVtConfig) -> None:
        super().__init__()
        settings = zip(config.tap_widths, config.tap_kernels, config.tap_strides, strict=True)
        self.reduce = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, config.map_width, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(config.map_width),
                nn.LeakyReLU(LEAK),
            )
            for width, kernel, stride in settings
        )
        self.flat = config.map_width * config.reduced_sides[-1] ** 2
        self.embed = nn.Sequential(
            nn.LayerNorm(self.flat), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(self.flat, config.dim)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        reduced = torch.cat([reduce(x) for reduce, x in zip(self.reduce, maps, strict=True)], dim=1)
        # B x 3·C1 x h x w -> B x 3 x C1·h·w
        return self.embed(reduced.reshape(reduced.shape[0], TAPS, self.flat))


class FerVt(Network):
    """The network of one :class:`FerVtConfig`: (B, 3, S, S) normalised image -> (B, C) logits."""

    config: FerVtConfig

    def __init__(self, config: FerVtConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim if config.transformer else config.trunk.widths[-1]
        self.grid_attention: nn.Module = GridAttention(config) if config.grid_attention else nn.Identity()
        self.trunk = ResNet(config.trunk)
        if config.transformer:
            self.tokens = PyramidTokens(config)
            self.cls_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
            self.pos_embed = nn.Parameter(torch.empty(1, TAPS + 1, dim).normal_(std=0.02))
            self.encoder = nn.Sequential(*(EncoderLayer(config) for _ in range(config.depth)))
            self.norm = nn.LayerNorm(dim)
        self.head = ClassificationHead(dim, config.num_classes)
        self._initialise()

    def features(self, x: Tensor) -> Tensor:
        """The feature (B, D) that the head classifies: the normed class token, or the mean of the last map."""
        maps = self.trunk.stages(self.grid_attention(x))
        if not self.config.transformer:
            return maps[-1].mean(dim=(2, 3))
        tokens = self.tokens(maps[-TAPS:])
        tokens = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), tokens), dim=1) + self.pos_embed
        return self.norm(self.encoder(tokens)[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def _initialise(self) -> None:
        """Kaiming-uniform convolutions; Xavier-uniform with gain 0.1 in the refining ones."""
        for name, module in self.named_modules():
            if not isinstance(module, nn.Conv2d):
                continue
            if name.startswith("grid_attention.refine"):
                nn.init.xavier_uniform_(module.weight, gain=0.1)
            else:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
