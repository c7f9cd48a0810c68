"""Metrics and temperature against answers known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from poster_edge.calib.temperature import fit_temperature, negative_log_likelihood
from poster_edge.train.metrics import calibration_error, evaluate, softmax


def one_hot_logits(predicted: list[int], classes: int, height: float = 10.0) -> np.ndarray:
    return np.eye(classes)[predicted] * height


def test_known_confusion() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    metrics = evaluate(one_hot_logits([0, 0, 1, 1, 0, 1], 4), labels, ("a", "b", "c", "d"))
    assert metrics.confusion == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert metrics.accuracy == pytest.approx(3 / 6)
    assert metrics.recall == {"a": pytest.approx(2 / 3), "b": 0.5, "c": 0.0, "d": None}
    assert metrics.mean_class_accuracy == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # F1: a 4/6, b 2/5, c 0; d does not occur.
    assert metrics.macro_f1 == pytest.approx((4 / 6 + 2 / 5 + 0) / 3)


def test_calibration_error_of_known_confidences() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0])
    assert calibration_error(probabilities, labels) == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(1 - 0.6))


def test_perfectly_calibrated_predictions_have_small_error() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    probabilities = softmax(logits)
    labels = np.array([rng.choice(5, p=p) for p in probabilities])
    assert calibration_error(probabilities, labels) < 0.015
    assert calibration_error(softmax(logits * 3), labels) > 0.1


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_temperature_is_recovered(true_temperature: float) -> None:
    rng = np.random.default_rng(1)
    honest = rng.normal(size=(30_000, 4)) * 2
    labels = np.array([rng.choice(4, p=p) for p in softmax(honest)])
    found = fit_temperature(honest * true_temperature, labels)
    assert found == pytest.approx(true_temperature, rel=0.04)


def test_temperature_minimises_the_likelihood() -> None:
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(500, 3)), rng.integers(0, 3, 500)
    best = fit_temperature(logits, labels)
    at_best = negative_log_likelihood(logits, labels, best)
    assert all(at_best <= negative_log_likelihood(logits, labels, t) + 1e-9 for t in np.geomspace(0.06, 19, 50))


def test_extreme_logits_stay_finite() -> None:
    metrics = evaluate(np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([0, 0]), ("a", "b"))
    assert np.isfinite([metrics.nll, metrics.ece]).all()
