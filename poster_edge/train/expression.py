"""Expression training, on frozen landmarks where the network has them, and evaluation on a validation split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from poster_edge.models.network import Network, WithLandmarks
from poster_edge.train.augment import appearance, random_affine, warp
from poster_edge.train.loop import Device, Loop
from poster_edge.train.targets import mixup


def train_epoch(
    loop: Loop,
    model: Network,
    images: Tensor,
    targets: Tensor,
    indices: Tensor,
    normalise: Callable[[Tensor], Tensor],
    tick: Callable[[], None],
) -> float:
    """One epoch over ``indices``; images (N, K, S, S) uint8, targets (N, C); returns the mean loss."""
    model.train()
    if isinstance(model, WithLandmarks):
        model.freeze_landmarks(batch_norm=True)
    generator = loop.generator()
    recipe = loop.recipe
    steps = max(len(indices) // recipe.batch, 1)
    losses = []
    for step, rows in loop.batches(indices, generator):
        matrices, _ = random_affine(len(rows), recipe.augmentation, generator)
        pixels = warp(images[rows].float() / 255, matrices)
        pixels = appearance(pixels, recipe.augmentation, generator).to(loop.device.name)
        target = targets[rows].to(loop.device.name)
        if recipe.mixup:
            pixels, target = mixup(pixels, target, recipe.mixup)

        def loss_of(pixels: Tensor = pixels, target: Tensor = target) -> Tensor:
            logits = model(normalise(pixels)).float()
            return F.cross_entropy(logits, target)

        losses.append(loop.step(loss_of, loop.progress.epoch + step / steps))
        tick()
    return float(np.mean(losses))


@torch.no_grad()
def predict(
    model: Network, images: Tensor, normalise: Callable[[Tensor], Tensor], device: Device, *, batch: int = 256
) -> NDArray[np.float32]:
    """Logits (N, C) in float32 for images (N, K, S, S) uint8."""
    model.eval()
    out = [
        model(normalise(images[start : start + batch].float().to(device.name) / 255)).float().cpu()
        for start in range(0, len(images), batch)
    ]
    return torch.cat(out).numpy()
