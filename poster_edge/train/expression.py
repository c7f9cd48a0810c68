"""Expression training, on frozen landmarks where the network has them, and evaluation on a validation split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poster_edge.models.network import Network, WithLandmarks
from poster_edge.train.augment import appearance, random_affine, warp
from poster_edge.train.loop import Device, Loop
from poster_edge.train.losses import as_one, expression_loss, loss_terms
from poster_edge.train.mixing import mixed
from poster_edge.train.normalise import Normalise
from poster_edge.train.pictures import Pictures
from poster_edge.train.prepare import at_once
from poster_edge.train.recipe import AUGMENTATIONS
from poster_edge.train.teachers import Teachers


def train_epoch(
    loop: Loop,
    model: Network,
    images: Tensor | Pictures,
    targets: Tensor,
    indices: Tensor,
    normalise: Normalise,
    tick: Callable[[], None],
    *,
    labels: Tensor,
    teachers: Teachers | None = None,
) -> float:
    """One epoch over ``indices``; images (N, K, S, S) uint8, targets (N, C); returns the mean loss.

    ``teachers`` judge every picture as it is learned from, augmented and mixed; ``labels`` (N,) are what a balanced
    order goes by.
    """
    model.train()
    if isinstance(model, WithLandmarks):
        model.freeze_landmarks(batch_norm=loop.recipe.freeze_landmark_bn)
    generator = loop.generator()
    weight = as_one(loss_terms(loop.recipe)).weight
    steps = max(len(indices) // loop.recipe.batch, 1)
    losses: list[Tensor] = []

    def loss_of(pixels: Tensor, target: Tensor) -> Tensor:
        return expression_loss(loop.call(normalise(pixels)), target, weight)

    for rows in loop.groups(indices, generator, pixels=images.shape[1:].numel(), labels=labels):
        pixels, target = (loop.own(t) for t in _pictures(loop, images, targets, rows, normalise, generator))
        if teachers is not None:
            share = loop.recipe.teacher_weight
            target = (1 - share) * target + share * teachers.judge(pixels)
        for batch in loop.batches(pixels, target):
            losses.append(loop.step(loss_of, batch, loop.progress.epoch + len(losses) / steps))
            tick()
    return loop.mean_loss(losses)


def _pictures(
    loop: Loop,
    images: Tensor | Pictures,
    targets: Tensor,
    rows: Tensor,
    normalise: Normalise,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Augmented, perhaps mixed pictures (B, K, S, S) in 0..1 and their targets (B, C), on the training device."""
    recipe = loop.recipe
    cooling = loop.progress.epoch >= recipe.epochs - recipe.cooldown
    augmentation = recipe.augmentation.at_most(AUGMENTATIONS["standard"]) if cooling else recipe.augmentation
    matrices, _ = random_affine(len(rows), augmentation, generator)
    pixels = warp(loop.take(images, rows) / 255, matrices)
    pixels = appearance(pixels, augmentation, generator, mean=normalise.mean[: images.shape[1]])
    target = loop.take(targets, rows)
    return (pixels, target) if cooling else mixed(pixels, target, mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix)


@torch.no_grad()
def predict(
    model: Network, images: Tensor | Pictures, rows: Tensor, normalise: Callable[[Tensor], Tensor], device: Device
) -> NDArray[np.float32]:
    """Logits (B, C) in float32 for the rows (B,) of images (N, K, S, S) uint8."""
    model.eval()
    if not len(rows):
        # With fewer images than processes, some have none.
        return np.empty((0, model.config.num_classes), np.float32)
    pieces = torch.split(rows, at_once(images.shape[-1], device))
    out = [model(normalise(images[p.to(images.device)].to(device.name) / 255)).float() for p in pieces]
    return torch.cat(out).cpu().numpy()
