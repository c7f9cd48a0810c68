"""Soft targets: smoothed labels, blended pairs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from poster_edge.errors import UsageError
from poster_edge.train.recipe import Recipe
from poster_edge.train.targets import mixup, smoothed


def test_smoothed_targets_equal_torchs_label_smoothing() -> None:
    labels, logits = torch.tensor([0, 2, 1]), torch.randn(3, 4)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(F.cross_entropy(logits, smoothed(labels, 4, 0.1)), expected)


def test_distributions_stand_for_labels() -> None:
    soft = torch.tensor([[0.4, 0.3, 0.3, 0.0]])
    found = smoothed(torch.tensor([0]), 4, 0.2, soft=soft)
    torch.testing.assert_close(found, torch.tensor([[0.37, 0.29, 0.29, 0.05]]))


def test_mixup_blends_images_and_targets_alike() -> None:
    torch.manual_seed(0)
    # Image i is all i, its target one-hot i: the blend must tell the same story in both.
    pixels = torch.arange(6.0)[:, None, None, None].expand(6, 1, 2, 2)
    mixed, targets = mixup(pixels, torch.eye(6), 0.4)
    torch.testing.assert_close(mixed[:, 0, 0, 0], targets @ torch.arange(6.0))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
    assert not torch.equal(targets, torch.eye(6))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixup": -0.1}, "mixup is -0.1, expected 0 or more"),
        ({"teacher_weight": 1.5}, "teacher_weight is 1.5, expected from 0 to 1"),
    ],
)
def test_recipe_refuses_nonsense(values: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(**values)
