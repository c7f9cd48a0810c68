"""Metrics and temperature against answers known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from poster_edge.calib.temperature import fit_temperature, negative_log_likelihood
from poster_edge.train.metrics import calibration_error, evaluate, softmax, wilson


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


def test_wilson_against_its_published_example() -> None:
    """Newcombe (1998), Table I: 81 of 263 gives 0.2553 to 0.3662."""
    share, low, high = wilson(81, 263)
    assert (share, low, high) == (
        pytest.approx(0.3080, abs=1e-4),
        pytest.approx(0.2553, abs=1e-4),
        pytest.approx(0.3662, abs=1e-4),
    )
    assert wilson(0, 100)[1] == 0


@pytest.mark.parametrize("predicted", [0, 1])
def test_few_faces_all_told_rightly_or_wrongly_leave_a_wide_interval(predicted: int) -> None:
    logits = np.zeros((3, 2))
    logits[:, predicted] = 5.0
    found = evaluate(logits, np.zeros(3, np.int64), ("a", "b"))
    assert found.accuracy == 1 - predicted
    assert found.accuracy_ci95 == pytest.approx(0.5615, abs=1e-4)  # 1 - 3 / (3 + 1.96^2)


def test_the_interval_of_many_faces_is_the_normal_one() -> None:
    logits = np.eye(2)[(np.arange(4000) % 3 == 0).astype(int)]
    found = evaluate(logits, np.zeros(4000, np.int64), ("a", "b"))
    normal = 1.96 * np.sqrt(found.accuracy * (1 - found.accuracy) / 4000)
    assert found.accuracy_ci95 == pytest.approx(normal, rel=0.03)
