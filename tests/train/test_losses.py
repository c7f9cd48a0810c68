"""The loss of POSTER's authors, and that a sum of smoothed cross-entropies is one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from poster_edge.train.losses import as_one, expression_loss, loss_terms
from poster_edge.train.recipe import LossTerm, Recipe
from poster_edge.train.recipe_file import load_recipe
from poster_edge.train.targets import smoothed


def ours(recipe: Recipe, logits: Tensor, labels: Tensor) -> Tensor:
    term = as_one(loss_terms(recipe))
    return expression_loss(logits, smoothed(labels, logits.shape[1], term.smoothing), term.weight)


def test_the_official_loss_is_three_times_a_smoothing_of_two_fifteenths() -> None:
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(64, 7), torch.randint(0, 7, (64,))
    # As the authors write it: 2 * LabelSmoothingCrossEntropy(0.2) + CrossEntropyLoss().
    log_p = logits.log_softmax(dim=1)
    plain = -log_p[torch.arange(64), labels]
    written = (2 * (0.8 * plain + 0.2 * -log_p.mean(dim=1)) + plain).mean()
    torch.testing.assert_close(ours(load_recipe("poster-rafdb-official").recipe, logits, labels), written)
    torch.testing.assert_close(3 * F.cross_entropy(logits, labels, label_smoothing=0.4 / 3), written)


def test_its_floor_is_that_of_the_published_log() -> None:
    """A network that answers with the targets themselves cannot get below; the authors' log ends at 1.70."""
    term = as_one(loss_terms(load_recipe("poster-rafdb-official").recipe))
    target = smoothed(torch.tensor([2]), 7, term.smoothing)
    assert float(expression_loss(target.log(), target, term.weight)) == pytest.approx(1.680, abs=5e-4)


def test_sums_of_terms_by_hand() -> None:
    found = as_one([LossTerm(2.0, 0.2), LossTerm(1.0, 0.0)])
    assert (found.weight, found.smoothing) == (3.0, pytest.approx(0.4 / 3))
    assert as_one(loss_terms(Recipe(label_smoothing=0.1))) == LossTerm(1.0, 0.1)


def test_gradients_are_those_of_the_sum() -> None:
    torch.manual_seed(1)
    logits = torch.randn(8, 5, requires_grad=True)
    labels = torch.randint(0, 5, (8,))
    terms = (LossTerm(0.5, 0.3), LossTerm(1.5, 0.1))
    (found,) = torch.autograd.grad(ours(Recipe(loss=terms), logits, labels), logits)
    separate = sum(t.weight * F.cross_entropy(logits, labels, label_smoothing=t.smoothing) for t in terms)
    (expected,) = torch.autograd.grad(separate, logits)
    torch.testing.assert_close(found, expected)
