"""Random geometry and appearance for whole batches, landmarks included.

Random numbers are drawn on the generator's device, which is where the images are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from poster_edge.train.recipe import Augmentation

#: Point i of a face becomes point MIRROR[i] of the mirrored face (iBUG's 68-point order).
MIRROR: tuple[int, ...] = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46),
    *(39, 38, 37, 36, 41, 40),
    *range(54, 47, -1),
    *range(59, 54, -1),
    *range(64, 59, -1),
    *range(67, 64, -1),
)


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (_rand(count, generator=generator) * 2 - 1) * limit


def _rand(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def random_affine(count: int, settings: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random rotations, zooms, shifts and mirrorings.

    Returns:
        matrices (B, 2, 3) that map output to input coordinates in [-1, 1], and flags (B,) of the
        mirrored ones.
    """
    angle = _uniform(count, math.radians(settings.rotate_deg), generator)
    zoom = torch.exp(_uniform(count, math.log1p(settings.scale), generator))
    shift = torch.stack([_uniform(count, 2 * settings.shift, generator) for _ in range(2)], dim=1)
    flip = _rand(count, generator=generator) < 0.5
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    sign = torch.where(flip, -1.0, 1.0)
    # B x 4 -> B x 2 x 2
    linear = torch.stack([cos * sign, -sin, sin * sign, cos], dim=1).reshape(-1, 2, 2)
    return torch.cat([linear, shift[:, :, None]], dim=2), flip


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample images (B, K, S, S) by output-to-input matrices (B, 2, 3); edges are repeated."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def warp_points(points: Tensor, matrices: Tensor, flip: Tensor) -> Tensor:
    """Move landmarks (B, 68, 2), fractions of the side, as :func:`warp` moves the image."""
    linear, shift = matrices[:, :, :2], matrices[:, :, 2]
    centred = points * 2 - 1 - shift[:, None]
    moved = centred @ torch.linalg.inv(linear).transpose(1, 2)
    mirrored = moved[:, torch.tensor(MIRROR, device=points.device)]
    return (torch.where(flip[:, None, None], mirrored, moved) + 1) / 2


def appearance(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Contrast, brightness and a random rectangle of noise on images (B, K, S, S) in 0..1."""
    count, _, height, width = images.shape
    device = images.device
    contrast = 1 + _uniform(count, settings.contrast, generator)[:, None, None, None]
    bright = _uniform(count, settings.brightness, generator)[:, None, None, None]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = ((images - mean) * contrast + mean + bright).clamp(0, 1)
    low, high = settings.erase_area
    area = low + (high - low) * _rand(count, generator=generator)
    aspect = torch.exp(_uniform(count, math.log(3.0), generator))
    half = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1) / 2
    centre = _rand(count, 2, generator=generator)
    erased = _rand(count, generator=generator) < settings.erase
    rows = (torch.arange(height, device=device) + 0.5) / height
    columns = (torch.arange(width, device=device) + 0.5) / width
    inside = ((rows - centre[:, :1]).abs() < half[:, :1])[:, :, None] & ((columns - centre[:, 1:]).abs() < half[:, 1:])[
        :, None
    ]
    noise = _rand(*images.shape, generator=generator)
    return torch.where((inside & erased[:, None, None])[:, None], noise, images)
