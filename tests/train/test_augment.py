"""Geometry that moves images and landmarks together, and appearance that stays in range."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from poster_edge.train.augment import MIRROR, appearance, random_affine, warp, warp_points
from poster_edge.train.recipe import AUGMENTATIONS, Augmentation, Recipe, learning_rate
from poster_edge.train.recipe_file import load_recipe


def spots(points: Tensor, size: int) -> Tensor:
    """One picture per point (B, P, S, S) with a soft spot at each of points (B, P, 2)."""
    axis = (torch.arange(size) + 0.5) / size
    dx = axis[None, None, None, :] - points[:, :, 0, None, None]
    dy = axis[None, None, :, None] - points[:, :, 1, None, None]
    return torch.exp(-(dx**2 + dy**2) / (2 * 0.02**2))


def centres(images: Tensor) -> Tensor:
    """Centre of mass (B, P, 2) of each picture (B, P, S, S)."""
    axis = (torch.arange(images.shape[-1]) + 0.5) / images.shape[-1]
    mass = images.sum(dim=(2, 3))
    return torch.stack(
        [(images.sum(dim=2) * axis).sum(dim=2) / mass, (images.sum(dim=3) * axis).sum(dim=2) / mass], dim=2
    )


def test_points_follow_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    settings = Augmentation(rotate_deg=25, scale=0.3, shift=0.1)
    matrices, flip = random_affine(16, settings, generator)
    assert flip.any()
    assert not flip.all()
    points = 0.4 + 0.2 * torch.rand(16, 68, 2, generator=generator)
    moved = centres(warp(spots(points, 96), matrices))
    # The mirrored face's point i is the original's point MIRROR[i].
    expected = torch.where(flip[:, None, None], moved[:, list(MIRROR)], moved)
    assert torch.allclose(warp_points(points, matrices, flip), expected, atol=0.01)


def test_none_leaves_images_as_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 1, 48, 48, generator=generator)
    matrices, flip = random_affine(8, AUGMENTATIONS["none"], generator)
    assert not flip.any()
    assert torch.allclose(appearance(warp(images, matrices), AUGMENTATIONS["none"], generator), images, atol=1e-5)


def test_a_cool_down_never_makes_augmentation_stronger() -> None:
    standard = AUGMENTATIONS["standard"]
    assert AUGMENTATIONS["strong"].at_most(standard) == standard
    assert AUGMENTATIONS["none"].at_most(standard) == AUGMENTATIONS["none"]
    own = Augmentation(rotate_deg=3, erase=0.9, erase_fill="mean")
    assert own.at_most(standard) == replace(standard, rotate_deg=3, erase_fill="mean")


def test_mirror_is_its_own_inverse() -> None:
    assert sorted(MIRROR) == list(range(68))
    assert [MIRROR[i] for i in MIRROR] == list(range(68))


@pytest.mark.parametrize("channels", [1, 3])
def test_appearance_stays_in_range_and_changes_only_so_much(channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.full((64, channels, 48, 48), 0.5)
    out = appearance(images, Augmentation(erase=0.5), generator)
    assert out.shape == images.shape
    assert out.min() >= 0
    assert out.max() <= 1
    changed = (out.std(dim=(1, 2, 3)) > 0.01).float().mean()
    assert 0.3 < changed < 0.7, "half of the images carry an erased rectangle"


def test_everything_follows_from_the_generator() -> None:
    one, two = (random_affine(8, Augmentation(), torch.Generator().manual_seed(7))[0] for _ in range(2))
    assert torch.equal(one, two)


def test_schedule_rises_then_falls() -> None:
    recipe = Recipe(epochs=10, warmup=2, lr=1.0)
    rates = [learning_rate(recipe, p / 10) for p in range(101)]
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 20
    assert rates[-1] == pytest.approx(0.01)
    assert all(a >= b for a, b in pairwise(rates[20:]))
    short = replace(recipe, epochs=1)
    assert [learning_rate(short, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.01, 0.5, 1.0])


def test_noise_has_the_asked_strength_and_share() -> None:
    plain = Augmentation(contrast=0, brightness=0, erase=0, noise=0.25, noise_std=0.02)
    images = torch.full((400, 3, 16, 16), 0.5)
    changed = appearance(images, plain, torch.Generator().manual_seed(0)) - images
    noisy = changed.abs().amax(dim=(1, 2, 3)) > 0
    assert 0.18 < float(noisy.float().mean()) < 0.32
    assert float(changed[noisy].std()) == pytest.approx(0.02, rel=0.02)


def test_noise_of_a_coarser_grid_is_spread() -> None:
    coarse = Augmentation(contrast=0, brightness=0, erase=0, noise=1, noise_std=0.05, noise_side=8)
    images = torch.full((16, 1, 32, 32), 0.5)
    noise = appearance(images, coarse, torch.Generator().manual_seed(0)) - images
    steps = (noise[..., 1:] - noise[..., :-1]).abs().mean()
    assert float(steps) < 0.4 * float(noise.abs().mean()), "neighbours differ little"


def test_rectangles_inside_in_the_mean_colour() -> None:
    settings = replace(load_recipe("poster-rafdb-official").recipe.augmentation, noise=0.0)
    images = torch.zeros(400, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    out = appearance(images, settings, torch.Generator().manual_seed(0), mean=mean)
    painted = (out != 0).any(dim=1)
    areas = painted.double().mean(dim=(1, 2))
    assert 0.42 < float((areas > 0).double().mean()) < 0.58
    # Whole pixels round the borders.
    assert float(areas[areas > 0].min()) > 0.012
    assert float(areas.max()) < 0.115
    assert torch.equal(out.unique(), torch.cat([torch.zeros(1), mean.flatten()]).unique())
