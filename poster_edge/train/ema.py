"""Exponential moving average of a model's state: the weights that are evaluated and kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AveragedState:
    """Average of every floating-point entry of a state dict, BatchNorm statistics included.

    The decay grows with the number of updates, min(decay, (1 + n) / (10 + n)), so that the first
    epochs are not held back by the initial weights.

    Args:
        model: whose state is followed; its tensors must stay the ones that they are.
        decay: of the average; 0 follows the latest weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state: dict[str, Tensor] = {k: v.detach().clone() for k, v in model.state_dict().items()}
        # Collected once: walking through a state dict takes longer than a GPU's step.
        live = model.state_dict()
        self._floats = [(k, v) for k, v in live.items() if v.is_floating_point()]
        self._others = [(k, v) for k, v in live.items() if not v.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self._others:
            torch._foreach_copy_([self.state[name] for name, _ in self._others], [v for _, v in self._others])
        torch._foreach_lerp_([self.state[name] for name, _ in self._floats], [v for _, v in self._floats], 1 - decay)

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor], updates: int) -> None:
        """Go on from a saved average.

        Raises:
            KeyError: it is another model's.
            RuntimeError: an entry has another shape.
        """
        for name, value in self.state.items():
            # Into the tensors that are there: they lie in memory as the model's do.
            value.copy_(state[name])
        self.updates = updates
