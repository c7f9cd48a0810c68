"""CutMix: a rectangle of every image comes from another image, its target in proportion.

Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"
(2019), eq. 1 and 2.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cutmix(pixels: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image of the batch into every image (B, K, S, S), and mix targets (B, C).

    A rectangle's area is drawn from Beta(alpha, alpha), its centre anywhere; what falls outside is cut off, and the
    target follows the area that was really pasted.  Drawn on torch's global generator.
    """
    count, _, height, width = pixels.shape
    device = pixels.device
    concentration = torch.tensor(alpha, device=device)
    area = 1 - torch.distributions.Beta(concentration, concentration).sample(torch.Size([count]))
    partner = torch.randperm(count, device=device)
    half = area.sqrt()[:, None] / 2
    centre = torch.rand(count, 2, device=device)
    rows = ((torch.arange(height, device=device) + 0.5) / height - centre[:, :1]).abs() < half
    columns = ((torch.arange(width, device=device) + 0.5) / width - centre[:, 1:]).abs() < half
    # B x S and B x S -> B x 1 x S x S
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    pasted = inside.double().mean(dim=(1, 2, 3)).to(targets.dtype)[:, None]
    return (
        torch.where(inside, pixels[partner], pixels),
        (1 - pasted) * targets + pasted * targets[partner],
    )
