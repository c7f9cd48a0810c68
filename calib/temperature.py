"""Temperature scaling: one number that makes confidences honest and changes no decision.

Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_LOWEST, _HIGHEST = 0.05, 20.0
_GOLDEN = (5**0.5 - 1) / 2


def negative_log_likelihood(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float) -> float:
    """Mean negative log-likelihood, in nats, of labels (N,) under logits (N, C) / temperature."""
    scaled = np.asarray(logits, np.float64) / temperature
    top = scaled.max(axis=1)
    log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    return float((log_sum - scaled[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Temperature between 0.05 and 20 with the lowest negative log-likelihood.

    Args:
        logits: (N, C), N of at least 1.
        labels: (N,).
    """
    return _lowest(lambda t: negative_log_likelihood(logits, labels, t))


def match_temperature(logits: NDArray[np.floating], probabilities: NDArray[np.floating]) -> float:
    """Temperature that brings logits (N, C) closest to given probabilities (N, C), by cross-entropy.

    For a model in a lower precision where there are no labels: the float32 model's probabilities stand in.
    """

    def cross_entropy(temperature: float) -> float:
        scaled = np.asarray(logits, np.float64) / temperature
        top = scaled.max(axis=1, keepdims=True)
        log_sum = top + np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))
        return float((probabilities * (log_sum - scaled)).sum(axis=1).mean())

    return _lowest(cross_entropy)


def _lowest(loss: Callable[[float], float]) -> float:
    """Where a loss is lowest; cross-entropy is convex in 1/T, hence unimodal in log T: golden-section search."""
    low, high = np.log(_LOWEST), np.log(_HIGHEST)
    for _ in range(60):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(float(np.exp(left))) < loss(float(np.exp(right))):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))
