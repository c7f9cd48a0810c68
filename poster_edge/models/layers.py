"""Small layers shared by the backbones and the fusion blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def activation(kind: str, channels: int) -> nn.Module:
    """An activation module: "relu", or "prelu" with one slope per channel."""
    return nn.PReLU(channels) if kind == "prelu" else nn.ReLU(inplace=True)


def every_kth(x: Tensor, k: int) -> Tensor:
    """Nearest-neighbour reduction for POSTER's backbones: every k-th pixel, (B, 3, S, S) -> (B, 3, S/k, S/k)."""
    return x if k == 1 else x[:, :, ::k, ::k]


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for whole samples while training.

    Source: Huang et al., "Deep Networks with Stochastic Depth" (2016).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1.0 - self.rate)
        return x * keep / (1.0 - self.rate)


class MLP(nn.Module):
    """Two linear layers with an exact (erf) GELU between them, and dropout behind it: (..., D) -> (..., D)."""

    def __init__(self, dim: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.act(self.fc1(x))))


class SEBlock(nn.Module):
    """Channel gate x·σ(W2·ReLU(W1·x)) on a feature vector (B, D), without a bottleneck."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, dim)
        self.linear2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.linear2(self.linear1(x).relu()).sigmoid()


class ClassificationHead(nn.Module):
    """Linear classifier: (B, D) -> (B, C)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)
