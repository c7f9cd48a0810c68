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
    flip = _rand(count, generator=generator) < settings.flip
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


def appearance(
    images: Tensor, settings: Augmentation, generator: torch.Generator, *, mean: Tensor | None = None
) -> Tensor:
    """Contrast, brightness, noise and a painted rectangle on images (B, K, S, S) in 0..1.

    Args:
        images: to change.
        settings: how much.
        generator: source of the randomness, on the images' device.
        mean: colour (K, 1, 1) that normalisation turns to 0, for ``erase_fill`` "mean".
    """
    count = len(images)
    contrast = 1 + _uniform(count, settings.contrast, generator)[:, None, None, None]
    bright = _uniform(count, settings.brightness, generator)[:, None, None, None]
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = ((images - middle) * contrast + middle + bright).clamp(0, 1)
    if settings.noise:
        images = (images + _noise(images, settings, generator)).clamp(0, 1)
    erased = _rectangles(images, settings, generator)
    if settings.erase_fill == "mean" and mean is not None:
        return torch.where(erased, mean, images)
    return torch.where(erased, _rand(*images.shape, generator=generator), images)


def _noise(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Gaussian noise (B, K, S, S) for some of the images, 0 for the others."""
    count, channels, height, width = images.shape
    grid = (settings.noise_side,) * 2 if settings.noise_side else (height, width)
    noise = torch.randn((count, channels, *grid), generator=generator, device=generator.device) * settings.noise_std
    if grid != (height, width):
        noise = F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)
    chosen = _rand(count, generator=generator) < settings.noise
    return noise * chosen[:, None, None, None]


def _rectangles(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Where some of the images have a random rectangle, (B, 1, S, S) bool."""
    count, _, height, width = images.shape
    low, high = settings.erase_area
    area = low + (high - low) * _rand(count, generator=generator)
    aspect = torch.exp(_uniform(count, math.log(settings.erase_aspect), generator))
    half = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1) / 2
    centre = _rand(count, 2, generator=generator)
    if settings.erase_inside:
        centre = half + (1 - 2 * half).clamp(min=0) * centre
    erased = _rand(count, generator=generator) < settings.erase
    rows = (torch.arange(height, device=images.device) + 0.5) / height
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    down = (rows - centre[:, :1]).abs() < half[:, :1]
    across = (columns - centre[:, 1:]).abs() < half[:, 1:]
    # B x S and B x S -> B x 1 x S x S
    return (down[:, :, None] & across[:, None, :] & erased[:, None, None])[:, None]
