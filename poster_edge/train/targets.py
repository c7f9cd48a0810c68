"""Soft targets of expression training: smoothed labels, mixed pairs.

Sources: Szegedy et al., "Rethinking the Inception Architecture" (2016), section 7 (label smoothing);
Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018), eq. 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def smoothed(labels: Tensor, num_classes: int, smoothing: float, *, soft: Tensor | None = None) -> Tensor:
    """Labels (N,) -> targets (N, C): ``smoothing`` is spread over all classes, the label's own included.

    Where the data set has distributions ``soft`` (N, C), they stand for the labels.
    """
    hard = torch.nn.functional.one_hot(labels, num_classes).to(torch.get_default_dtype())
    return (hard if soft is None else soft) * (1 - smoothing) + smoothing / num_classes


def mixup(pixels: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend every image (B, K, S, S) and its target (B, C) with another of the batch.

    The share of each blend is drawn from Beta(alpha, alpha) on torch's global generator.
    """
    concentration = torch.tensor(alpha, device=pixels.device)
    share = torch.distributions.Beta(concentration, concentration).sample(torch.Size([len(pixels)])).to(pixels)
    partner = torch.randperm(len(pixels), device=pixels.device)
    blend = share[:, None, None, None]
    return (
        blend * pixels + (1 - blend) * pixels[partner],
        share[:, None] * targets + (1 - share[:, None]) * targets[partner],
    )
