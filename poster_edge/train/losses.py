"""The loss of expression training: a weighted sum of cross-entropies with smoothed targets, as one.

Cross-entropy is linear in its target, and smoothing is too: w₁ LS(s₁) + w₂ LS(s₂) is (w₁ + w₂) LS(s) with
s = (w₁ s₁ + w₂ s₂) / (w₁ + w₂), for labels and for distributions.  POSTER's 2 LS(0.2) + CE is 3 LS(0.1333).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from poster_edge.train.recipe import LossTerm, Recipe


def loss_terms(recipe: Recipe) -> tuple[LossTerm, ...]:
    """What a recipe sums: its terms, or one cross-entropy with its label smoothing."""
    return recipe.loss or (LossTerm(1.0, recipe.label_smoothing),)


def as_one(terms: Sequence[LossTerm]) -> LossTerm:
    """The one term that equals the sum of several."""
    weight = sum(t.weight for t in terms)
    return LossTerm(weight, sum(t.weight * t.smoothing for t in terms) / weight)


def expression_loss(logits: Tensor, targets: Tensor, weight: float) -> Tensor:
    """Mean loss of logits (B, C) against distributions (B, C) that are smoothed already, times ``weight``."""
    return weight * F.cross_entropy(logits.to(targets.dtype), targets)
