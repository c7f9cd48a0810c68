"""Which images an epoch takes, and in which order."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_weights(labels: Tensor) -> Tensor:
    """Weight (N,) of each image: 1 over the count of its class, so that every class weighs the same.

    Args:
        labels: (N,) class of each.
    """
    return 1.0 / torch.bincount(labels).double()[labels]


def epoch_order(rows: Tensor, labels: Tensor, sampling: str, generator: torch.Generator) -> Tensor:
    """Row numbers (N,) of one epoch.

    Args:
        rows: (N,) row numbers to draw from.
        labels: class of every row of the whole set.
        sampling: "shuffle": each row once; "balanced": N draws with replacement, every class as often as another
            in the mean (the sampler of POSTER's AffectNet code).
        generator: source of the randomness; the answer lies on its device.
    """
    rows = rows.to(generator.device)
    if sampling == "shuffle":
        return rows[torch.randperm(len(rows), generator=generator, device=generator.device)]
    assert sampling == "balanced", sampling
    weights = balanced_weights(labels.to(generator.device)[rows])
    return rows[torch.multinomial(weights, len(rows), replacement=True, generator=generator)]
