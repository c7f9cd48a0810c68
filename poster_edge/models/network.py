"""What every network offers, and what those with a landmark stream offer besides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from poster_edge.models.base_config import ModelConfig


class Network(nn.Module, ABC):
    """A classifier of faces built from one configuration; its input is normalised.

    Attributes:
        config: what it was built from.
        dead_prefixes: beginnings of the names of parameters that no forward pass reads; they exist
            where a published checkpoint holds them.
    """

    config: ModelConfig
    dead_prefixes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """The feature (B, D) that the head classifies, of images (B, 3, S, S)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, S, S)."""


class LandmarkNetwork(nn.Module, ABC):
    """A network that can be trained to find the 68 points of a face."""

    @abstractmethod
    def landmarks(self, x: Tensor) -> Tensor:
        """Predicted points (B, 68, 2) of images (B, 3, S, S) as the whole network is given them.

        x and y are fractions of the side, 0..1 inside it.
        """

    @abstractmethod
    def start_at(self, points: Tensor) -> None:
        """Let an untrained network begin at the mean of ``points`` (N, 68, 2)."""


@runtime_checkable
class WithLandmarks(Protocol):
    """A network with a landmark stream, which is trained first and then held still."""

    @property
    def landmark_stream(self) -> LandmarkNetwork:
        """The part that finds the points."""

    def freeze_landmarks(self, *, batch_norm: bool) -> None:
        """Stop training the landmark stream; with ``batch_norm`` its BatchNorm statistics stay too."""


def live_parameters(network: Network) -> int:
    """Number of parameters that take part in a forward pass."""
    return sum(p.numel() for n, p in network.named_parameters() if not n.startswith(network.dead_prefixes))
