"""Pictures made of two images, blended or cut together, and their targets."""

from __future__ import annotations

import torch
from torch import Tensor

from poster_edge.train.cutmix import cutmix
from poster_edge.train.targets import mixup


def mixed(pixels: Tensor, targets: Tensor, *, mixup_alpha: float, cutmix_alpha: float) -> tuple[Tensor, Tensor]:
    """Blend or cut pairs of images (B, K, S, S) and mix their targets (B, C).

    Args:
        pixels: images.
        targets: their distributions.
        mixup_alpha: of :func:`mixup`; 0: none.
        cutmix_alpha: of :func:`cutmix`; 0: none.  With both, each image is either blended or cut.
    """
    if not cutmix_alpha:
        return mixup(pixels, targets, mixup_alpha) if mixup_alpha else (pixels, targets)
    if not mixup_alpha:
        return cutmix(pixels, targets, cutmix_alpha)
    blended, cut = mixup(pixels, targets, mixup_alpha), cutmix(pixels, targets, cutmix_alpha)
    chosen = torch.rand(len(pixels), device=pixels.device) < 0.5
    return (
        torch.where(chosen[:, None, None, None], blended[0], cut[0]),
        torch.where(chosen[:, None], blended[1], cut[1]),
    )
