"""CutMix: pixels and targets must tell the same story."""

from __future__ import annotations

import torch

from poster_edge.train.cutmix import cutmix
from poster_edge.train.mixing import mixed


def test_targets_follow_the_pasted_area() -> None:
    torch.manual_seed(0)
    # Image i is all i and its target one-hot i, so an image's mean must be its target's.
    pixels = torch.arange(64.0)[:, None, None, None].expand(64, 1, 24, 24)
    mixed, targets = cutmix(pixels, torch.eye(64), 1.0)
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), targets @ torch.arange(64.0))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))
    assert (targets.max(dim=1).values < 1).float().mean() > 0.8


def test_what_is_pasted_is_one_rectangle() -> None:
    torch.manual_seed(1)
    pixels = torch.arange(16.0)[:, None, None, None].expand(16, 2, 20, 20)
    mixed, _ = cutmix(pixels, torch.eye(16), 1.0)
    changed = (mixed != pixels).any(dim=1)
    for mask in changed:
        box = mask.any(dim=1).sum() * mask.any(dim=0).sum()
        assert mask.sum() == box


def test_mean_area_is_that_of_the_distribution() -> None:
    """Beta(1, 1) has mean 1/2; what a border cuts off makes the pasted part smaller."""
    torch.manual_seed(2)
    _, targets = cutmix(torch.zeros(4000, 1, 8, 8), torch.eye(4000), 1.0)
    kept = targets.diagonal().mean()
    assert 0.5 < float(kept) < 0.75


def test_each_image_is_either_blended_or_cut() -> None:
    torch.manual_seed(3)
    pixels = torch.arange(64.0)[:, None, None, None].expand(64, 1, 16, 16)
    out, targets = mixed(pixels, torch.eye(64), mixup_alpha=1.0, cutmix_alpha=1.0)
    torch.testing.assert_close(out.mean(dim=(1, 2, 3)), targets @ torch.arange(64.0), atol=1e-4, rtol=0)
    blended = (out.flatten(1).std(dim=1) == 0) & (out[:, 0, 0, 0] != pixels[:, 0, 0, 0])
    assert 0.3 < float(blended.float().mean()) < 0.7


def test_nothing_asked_nothing_done() -> None:
    pixels, targets = torch.rand(4, 1, 8, 8), torch.eye(4)
    assert mixed(pixels, targets, mixup_alpha=0.0, cutmix_alpha=0.0) == (pixels, targets)
