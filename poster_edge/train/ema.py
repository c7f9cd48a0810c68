"""Exponential moving average of a model's state: the weights that are evaluated and kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AveragedState:
    """Average of every floating-point entry of a state dict, BatchNorm statistics included.

    The decay grows with the number of updates, min(decay, (1 + n) / (10 + n)), so that the first
    epochs are not held back by the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state: dict[str, Tensor] = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        floats: list[Tensor] = []
        news: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                floats.append(self.state[name])
                news.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(floats, news, 1 - decay)
