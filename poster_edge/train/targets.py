"""Soft targets of expression training: smoothed labels, a teacher's opinion, mixed pairs.

Sources: Szegedy et al., "Rethinking the Inception Architecture" (2016), section 7 (label smoothing);
Hinton et al., "Distilling the Knowledge in a Neural Network" (2015); Reed et al., "Training Deep
Neural Networks on Noisy Labels with Bootstrapping" (2015), eq. 6 (a teacher of the same kind, against
wrong labels); Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018), eq. 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from poster_edge.models.network import Network
from poster_edge.train.loop import Device
from poster_edge.train.pictures import Pictures


def smoothed(labels: Tensor, num_classes: int, smoothing: float, *, soft: Tensor | None = None) -> Tensor:
    """Labels (N,) -> targets (N, C): ``smoothing`` is spread over all classes, the label's own included.

    Where the data set has distributions ``soft`` (N, C), they stand for the labels.
    """
    hard = torch.nn.functional.one_hot(labels, num_classes).to(torch.get_default_dtype())
    return (hard if soft is None else soft) * (1 - smoothing) + smoothing / num_classes


@torch.no_grad()
def opinions(
    teacher: Network,
    images: Tensor | Pictures,
    rows: Tensor,
    normalise: Callable[[Tensor], Tensor],
    device: Device,
    *,
    batch: int = 256,
) -> Tensor:
    """Probabilities (N, C) a teacher gives images (N, K, S, S) uint8, averaged over both mirrorings.

    Only ``rows`` are computed; the others stay 0 and must not be trained on.
    """
    teacher.eval()
    out = torch.zeros(len(images), teacher.config.num_classes)
    for chosen in torch.split(rows, batch):
        pixels = images[chosen.to(images.device)].to(device.name).float() / 255
        with device.precision():
            views = [teacher(normalise(view)).float().softmax(dim=1) for view in (pixels, pixels.flip(3))]
        out[chosen] = (sum(views) / 2).cpu()
    return out


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
