"""What the configurations of all networks have in common.  No torch here.

Variants of a network differ by a few integers, never by code paths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from poster_edge.config import Preprocess
from poster_edge.errors import UsageError
from poster_edge.labels import LabelSet


@dataclass(frozen=True)
class ModelConfig(ABC):
    """Base of every network's configuration.

    Attributes:
        variant: name of the configuration.
        num_classes: C.
        input_size: side S of the square input in pixels.
    """

    variant: str
    num_classes: int = 7
    input_size: int = 224

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise UsageError(f"a classifier needs at least 2 classes, not {self.num_classes}")

    @property
    @abstractmethod
    def description(self) -> str:
        """The shape of the network in a few words."""

    def preprocess(self, labels: LabelSet) -> Preprocess:
        """Preprocessing of the published model for one data set; unless a network says otherwise, RGB for all."""
        return Preprocess(size=self.input_size)
