"""Teachers: trained networks whose opinion of the very picture that is learned from joins the labels.

Source: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent" (2022), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from poster_edge.config import Preprocess
from poster_edge.errors import UsageError
from poster_edge.models.checkpoint import load_model
from poster_edge.models.network import Network
from poster_edge.train.loop import Device

#: Images that are judged at once.
_BATCH = 1024


class Teachers:
    """One or more networks that are asked together.

    Args:
        paths: their checkpoints.
        classes: in the run's order.
        preprocess: of the run.
        device: where and in which precision they compute.
        normalise: (B, K, S, S) in 0..1 -> (B, 3, S, S).

    Raises:
        UsageError: a teacher has other classes or another preprocessing.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        classes: tuple[str, ...],
        preprocess: Preprocess,
        device: Device,
        normalise: Callable[[Tensor], Tensor],
    ) -> None:
        self.networks: list[Network] = []
        self.device, self.normalise = device, normalise
        for path in paths:
            network, info = load_model(path)
            if (info.classes, info.preprocess) != (classes, preprocess):
                raise UsageError(f"{path} has other classes or another preprocessing; it cannot teach this run")
            self.networks.append(device.place(network).eval().requires_grad_(False))

    @torch.no_grad()
    def judge(self, pixels: Tensor) -> Tensor:
        """Their mean probabilities (B, C) for pictures (B, K, S, S) in 0..1, on the training device."""
        out = []
        for piece in torch.split(pixels, _BATCH):
            ready = self.normalise(piece)
            with self.device.precision():
                views = [network(ready) for network in self.networks]
            out.append(torch.stack([v.float().softmax(dim=1) for v in views]).mean(dim=0))
        return torch.cat(out)
