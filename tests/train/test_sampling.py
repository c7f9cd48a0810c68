"""The order of an epoch: every row once, or every class as often."""

from __future__ import annotations

import pytest
import torch

from poster_edge.train.sampling import balanced_weights, epoch_order


def test_weights_by_hand() -> None:
    found = balanced_weights(torch.tensor([0, 0, 2, 0, 2]))
    assert found.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 2])


def test_shuffling_takes_each_row_once() -> None:
    rows = torch.tensor([3, 5, 8])
    assert sorted(epoch_order(rows, torch.zeros(9).long(), "shuffle", torch.Generator()).tolist()) == [3, 5, 8]


def test_balancing_draws_classes_alike_and_only_from_the_rows() -> None:
    # 9 of 10 rows are of class 0; row 0 is not to be drawn from.
    labels = (torch.arange(10_000) % 10 == 9).long()
    order = epoch_order(torch.arange(1, 10_000), labels, "balanced", torch.Generator().manual_seed(0))
    assert len(order) == 9_999
    assert 0 not in order
    # Standard deviation of the share: 0.005.
    assert float(labels[order].double().mean()) == pytest.approx(0.5, abs=0.02)
    assert len(order.unique()) < 9_000, "drawn with replacement"


def test_order_follows_from_the_generator() -> None:
    rows, labels = torch.arange(50), torch.arange(50) % 3
    one, two = (epoch_order(rows, labels, "balanced", torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, two)
