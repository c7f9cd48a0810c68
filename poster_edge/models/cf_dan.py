"""CF-DAN: a spatial and a channel stream of grouped attention that read each other's keys.

Source: Zhang et al., "CF-DAN: Facial-expression recognition based on cross-fusion dual-attention
network" (2024), eq. 1-8.  Normalisation, group counts, projections and the head are not stated there;
they are chosen so that the published size and cost of the attention come out (``tests/models/test_cf_dan.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from poster_edge.kernels.attention import attention
from poster_edge.models.cf_dan_config import CfDanConfig
from poster_edge.models.layers import ClassificationHead
from poster_edge.models.network import Network
from poster_edge.models.pcp import PCP
from poster_edge.models.resnet import ResNet

LN_EPS = 1e-6


class GroupAttention(nn.Module, ABC):
    """What both streams have: normalisation, bias-free projections and the sum with the stream itself.

    The sum takes the undistilled stream, which closes the paper's loop between distillation and
    residual connection.
    """

    def __init__(self, config: CfDanConfig) -> None:
        super().__init__()
        dim = config.dim
        self.grid = config.grid
        self.norm = nn.LayerNorm(dim, LN_EPS)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.proj: nn.Module = nn.Linear(dim, dim, bias=False) if config.out_proj else nn.Identity()

    @abstractmethod
    def attend(self, x: Tensor, keys_from: Tensor) -> Tensor:
        """Attention of normalised tokens ``x`` on keys of normalised ``keys_from``, all (B, N, D)."""

    def forward(self, x: Tensor, keys_from: Tensor) -> Tensor:
        """The stream ``x`` after attention with keys of the stream ``keys_from``; all (B, N, D)."""
        return x + self.proj(self.attend(self.norm(x), self.norm(keys_from)))


class SpatialAttention(GroupAttention):
    """Attention between tokens; distilled, each row of the map attends to half as many of its own.

    Distillation comes before the projections, which is what the published cost asks for.
    """

    def __init__(self, config: CfDanConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.rows = config.grid if config.distil else 1
        self.distil: nn.Module = nn.Identity()
        if config.distil:
            # Half as many groups as channels: dense kernels would cost 2.36 M parameters a layer.
            self.distil = nn.Sequential(
                nn.Conv2d(dim, dim // 2, 3, padding=1, groups=dim // 2, bias=False),
                nn.Conv2d(dim // 2, dim, 3, padding=1, groups=dim // 2, bias=False),
                nn.MaxPool2d((1, 2)),
            )

    def attend(self, x: Tensor, keys_from: Tensor) -> Tensor:
        q = self.query(x)
        k, v = self.key(self._distilled(keys_from)), self.value(self._distilled(x))
        out = attention(*(self._by_row(t) for t in (q, k, v)), scale=x.shape[2] ** -0.5)
        # B x rows x N/rows x D -> B x N x D
        return out.flatten(1, 2)

    def _distilled(self, x: Tensor) -> Tensor:
        """(B, g², D) -> (B, g·(g/2), D), rows kept whole."""
        if self.rows == 1:
            return x
        # B x g² x D -> B x D x g x g
        maps = x.transpose(1, 2).reshape(-1, x.shape[2], self.grid, self.grid)
        # B x D x g x g/2 -> B x g·(g/2) x D
        return self.distil(maps).flatten(2).transpose(1, 2)

    def _by_row(self, x: Tensor) -> Tensor:
        # B x M x D -> B x rows x M/rows x D
        return x.reshape(-1, self.rows, x.shape[1] // self.rows, x.shape[2])


class ChannelAttention(GroupAttention):
    """Attention between channels; distilled, each group attends to half as many of its own."""

    def __init__(self, config: CfDanConfig) -> None:
        super().__init__(config)
        self.groups = config.channel_groups if config.distil else 1
        self.width = config.dim // self.groups
        self.distil: nn.Module = nn.Identity()
        if config.distil:
            # One set of weights for all groups.
            self.distil = nn.Sequential(
                nn.Conv2d(self.width, self.width // 2, 1, bias=False),
                nn.Conv2d(self.width // 2, self.width // 2, 3, padding=1, bias=False),
            )

    def attend(self, x: Tensor, keys_from: Tensor) -> Tensor:
        q = self._by_group(self.query(x))
        k, v = self._distilled(self.key(keys_from)), self._distilled(self.value(x))
        out = attention(q, k, v, scale=x.shape[1] ** -0.5)
        # B x groups x D/groups x N -> B x N x D
        return out.flatten(1, 2).transpose(1, 2)

    def _by_group(self, x: Tensor) -> Tensor:
        # B x N x D -> B x groups x D/groups x N
        return x.transpose(1, 2).reshape(-1, self.groups, self.width, x.shape[1])

    def _distilled(self, x: Tensor) -> Tensor:
        """(B, g², D) -> (B, groups, D/(2·groups), g²)."""
        grouped = self._by_group(x)
        if self.groups == 1:
            return grouped
        # B x groups x W x g² -> B·groups x W x g x g
        maps = grouped.reshape(-1, self.width, self.grid, self.grid)
        # B·groups x W/2 x g x g -> B x groups x W/2 x g²
        return self.distil(maps).reshape(-1, self.groups, self.width // 2, self.grid**2)


class DualAttention(nn.Module):
    """One layer of both streams; keys come from the other stream when ``cross``."""

    def __init__(self, config: CfDanConfig) -> None:
        super().__init__()
        self.cross = config.cross
        self.spatial = SpatialAttention(config)
        self.channel = ChannelAttention(config)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Spatial stream ``a`` and channel stream ``b``, both (B, N, D), after the layer."""
        spatial_keys, channel_keys = (b, a) if self.cross else (a, b)
        return self.spatial(a, spatial_keys), self.channel(b, channel_keys)


class Interaction(nn.Module):
    """Interactive learning: each stream's channel gate passes through to the other stream.

    The paper's undefined CBM is read as CAM, the gated stream.
    """

    def __init__(self, config: CfDanConfig) -> None:
        super().__init__()
        dim = config.dim
        self.gate_a, self.gate_b = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.pass_a, self.pass_b = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.act = activation(config.activation)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Streams (B, N, D) each -> one (B, N, D)."""
        c_a = self.act(self.gate_a(a.mean(dim=1, keepdim=True)))
        c_b = self.act(self.gate_b(b.mean(dim=1, keepdim=True)))
        # The gates meet each other, (B, 1, D), before they meet the tokens: one product of tokens less.
        return self.act(self.pass_a(c_a)) * c_b * b + self.act(self.pass_b(c_b)) * c_a * a


class CfDan(Network):
    """The network of one :class:`CfDanConfig`: (B, 3, S, S) normalised image -> (B, C) logits."""

    config: CfDanConfig

    def __init__(self, config: CfDanConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = ResNet(config.trunk)
        self.layers = nn.ModuleList(DualAttention(config) for _ in range(config.layers if config.dam else 0))
        self.interaction = Interaction(config) if config.ilm else None
        self.head = ClassificationHead(config.dim, config.num_classes)

    def attend(self, tokens: Tensor) -> Tensor:
        """Everything between trunk and head: (B, N, D) -> (B, N, D)."""
        a = b = tokens
        for layer in self.layers:
            a, b = layer(a, b)
        if self.interaction is not None:
            return self.interaction(a, b)
        return a + b if len(self.layers) else tokens

    def features(self, x: Tensor) -> Tensor:
        # B x D x g x g -> B x g² x D
        tokens = self.trunk(x).flatten(2).transpose(1, 2)
        return self.attend(tokens).mean(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def activation(kind: str) -> nn.Module:
    """One of :data:`poster_edge.models.cf_dan_config.ACTIVATIONS` as a module."""
    return {"pcp": PCP, "relu": nn.ReLU, "gelu": nn.GELU, "mish": nn.Mish}[kind]()
