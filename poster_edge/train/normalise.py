"""Pixels as a network wants them, from constants that already lie on the training device."""

from __future__ import annotations

import torch
from torch import Tensor

from poster_edge.config import Preprocess


class Normalise:
    """(B, K, S, S) in 0..1 -> (B, 3, S, S): (pixels - mean) / std, channels last; one channel becomes three alike."""

    def __init__(self, preprocess: Preprocess, device: str) -> None:
        #: Colour (3, 1, 1) that becomes 0.
        self.mean = torch.tensor(preprocess.mean, device=device)[:, None, None]
        self._std = torch.tensor(preprocess.std, device=device)[:, None, None]

    def __call__(self, pixels: Tensor) -> Tensor:
        return ((pixels - self.mean) / self._std).contiguous(memory_format=torch.channels_last)
