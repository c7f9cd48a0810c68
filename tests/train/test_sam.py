"""SAM against its definition: by hand on a quadratic, and against the algorithm written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from poster_edge.train.sam import climbed, norms_held


def test_one_step_on_a_quadratic_by_hand() -> None:
    # f(w) = (w₁² + 4 w₂²) / 2 at (1, 1): g = (1, 4), |g| = √17.
    w = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=0.1)
    (0.5 * (w[0] ** 2 + 4 * w[1] ** 2)).backward()
    with climbed([w], 0.5):
        step = 0.5 / 17**0.5
        torch.testing.assert_close(w.detach(), torch.tensor([1 + step, 1 + 4 * step], dtype=torch.float64))
        optimizer.zero_grad()
        (0.5 * (w[0] ** 2 + 4 * w[1] ** 2)).backward()
    assert w.tolist() == [1.0, 1.0]
    optimizer.step()
    expected = torch.tensor([1 - 0.1 * (1 + step), 1 - 0.1 * 4 * (1 + 4 * step)], dtype=torch.float64)
    torch.testing.assert_close(w.detach(), expected)


def sgd(gradient: np.ndarray, state: dict) -> np.ndarray:
    return -0.05 * gradient


def adam(gradient: np.ndarray, state: dict) -> np.ndarray:
    """Kingma and Ba (2015), algorithm 1, with torch's defaults."""
    state["t"] = t = state.get("t", 0) + 1
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * gradient
    state["v"] = 0.999 * state.get("v", 0) + 0.001 * gradient**2
    return -0.05 * (state["m"] / (1 - 0.9**t)) / (np.sqrt(state["v"] / (1 - 0.999**t)) + 1e-8)


@pytest.mark.parametrize(("optimizer", "move"), [(torch.optim.SGD, sgd), (torch.optim.Adam, adam)], ids=["sgd", "adam"])
def test_many_steps_against_numpy(optimizer: type, move: Callable) -> None:
    """Logistic regression whose weights lie in two tensors: the norm is one over both."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.integers(0, 2, 40) * 2.0 - 1
    weights, bias = nn.Parameter(torch.zeros(3, dtype=torch.float64)), nn.Parameter(torch.ones(1, dtype=torch.float64))
    base = optimizer([weights, bias], lr=0.05)

    def compute() -> None:
        base.zero_grad()
        margins = torch.from_numpy(y) * (torch.from_numpy(x) @ weights + bias)
        nn.functional.softplus(-margins, threshold=1e9).mean().backward()

    theta, state = np.array([0.0, 0.0, 0.0, 1.0]), {}
    extended = np.concatenate([x, np.ones((40, 1))], axis=1)

    def gradient(at: np.ndarray) -> np.ndarray:
        return extended.T @ (-y / (1 + np.exp(y * (extended @ at)))) / 40

    for _ in range(20):
        compute()
        with climbed([weights, bias], 0.3):
            compute()
        base.step()
        g = gradient(theta)
        theta = theta + move(gradient(theta + 0.3 * g / np.linalg.norm(g)), state)
    found = torch.cat([weights, bias]).detach().numpy()
    np.testing.assert_allclose(found, theta, rtol=1e-10)


def test_no_gradient_no_move() -> None:
    still, flat = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    flat.grad = torch.zeros(2)
    with climbed([still, flat], 0.05):
        assert still.tolist() == [1.0, 1.0]
        assert flat.tolist() == [1.0, 1.0]
    with climbed([still], 0.05):
        assert still.tolist() == [1.0, 1.0]


def test_weights_come_back_after_an_error() -> None:
    w = nn.Parameter(torch.tensor([0.1, 0.7]))
    w.grad = torch.ones(2)
    with pytest.raises(ZeroDivisionError), climbed([w], 1.0):
        raise ZeroDivisionError
    assert torch.equal(w.detach(), torch.tensor([0.1, 0.7]))


def statistics(norm: nn.BatchNorm1d) -> list[Tensor]:
    return [v.clone() for v in (norm.running_mean, norm.running_var, norm.num_batches_tracked)]


def test_norms_are_held_but_normalise_by_the_batch() -> None:
    norm, x = nn.BatchNorm1d(3), torch.randn(8, 3) * 5
    before = statistics(norm)
    with norms_held(norm):
        out = norm(x)
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(norm), strict=True))
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    assert torch.equal(norm(x), out)
    assert not torch.equal(before[0], norm.running_mean)


def test_a_frozen_norm_keeps_using_its_statistics() -> None:
    norm, x = nn.BatchNorm1d(3).eval(), torch.randn(8, 3) * 5
    expected = norm(x)
    with norms_held(norm):
        assert torch.equal(norm(x), expected)
    assert norm.track_running_stats
