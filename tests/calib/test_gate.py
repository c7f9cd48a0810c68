"""The gate's arithmetic on cases with a known verdict, and what it does when it fails."""

from __future__ import annotations

import numpy as np
import pytest

from poster_edge.calib.gate import (
    GateReport,
    Thresholds,
    judge,
    mean_divergence,
    paired_drop,
    pass_by_restoring,
)
from poster_edge.calib.suitability import FEATURES, StatisticsCollector, image_features, mismatches
from poster_edge.calib.temperature import match_temperature
from poster_edge.train.metrics import softmax

CLASSES = ("a", "b", "c")


def one_hot(labels: np.ndarray, strength: float = 3.0) -> np.ndarray:
    return strength * np.eye(3, dtype=np.float32)[labels]


def wrong(logits: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
    out = logits.copy()
    out[rows] = np.roll(out[rows], 1, axis=1)
    return out


@pytest.fixture
def labels() -> np.ndarray:
    return np.repeat([0, 1, 2], 200)


def test_the_same_model_passes(labels: np.ndarray) -> None:
    report = judge(one_hot(labels), one_hot(labels), labels, CLASSES)
    assert report.passed
    assert report.flip_rate[0] == 0 == report.mean_kl == report.accuracy_drop[0]
    assert report.flips == []


def test_accuracy_below_the_ratio_fails(labels: np.ndarray) -> None:
    """6 of 600 are 1 %: still there; 7 are more."""
    spread = np.arange(0, 600, 100)
    assert judge(one_hot(labels), wrong(one_hot(labels), spread), labels, CLASSES).passed
    report = judge(one_hot(labels), wrong(one_hot(labels), np.append(spread, 50)), labels, CLASSES)
    assert not report.passed
    assert report.reasons == ["accuracy 98.83% is below 99% of float32's 100.00%"]
    assert sorted(report.flips) == [0, 50, 100, 200, 300, 400, 500]


def test_one_class_may_not_pay_for_all() -> None:
    labels = np.concatenate([np.zeros(5000, int), np.full(100, 1), np.full(100, 2)])
    lost = np.arange(5000, 5004)
    report = judge(one_hot(labels), wrong(one_hot(labels), lost), labels, CLASSES)
    assert report.reasons == ["'b' falls from 100.0% to 96.0%, more than 3 points"]
    assert report.worst_class == ("b", pytest.approx(0.04))
    assert report.candidate["accuracy"] > 0.999


def test_two_images_of_a_tiny_class_are_chance() -> None:
    labels = np.concatenate([np.zeros(1000, int), np.full(20, 1), np.full(1000, 2)])
    two, three = (
        judge(one_hot(labels), wrong(one_hot(labels), slice(1000, 1000 + n)), labels, CLASSES) for n in (2, 3)
    )
    assert two.passed
    assert not three.passed


def test_without_labels_agreement_is_judged(labels: np.ndarray) -> None:
    reference = one_hot(labels)
    assert judge(reference, reference, None, CLASSES).passed
    report = judge(reference, wrong(reference, np.arange(0, 600, 10)), None, CLASSES)
    assert not report.passed
    assert "10.00% of the images change class" in report.reasons[0]
    assert report.reference is None
    # Same classes, other confidences: only the divergence sees it.
    vague = judge(reference, reference / 6, None, CLASSES)
    assert vague.flip_rate[0] == 0
    assert "mean divergence" in vague.reasons[0]


def test_values_that_are_not_finite_fail(labels: np.ndarray) -> None:
    broken = one_hot(labels)
    broken[5, 1] = np.nan
    for truth in (labels, None):
        report = judge(one_hot(labels), broken, truth, CLASSES)
        assert not report.passed
        assert "1 of 600 images give values that are not finite" in report.reasons[0]


def test_thresholds_are_the_callers(labels: np.ndarray) -> None:
    candidate = wrong(one_hot(labels), np.arange(0, 600, 20))
    lax = Thresholds(accuracy_ratio=0.9, class_drop=0.1)
    assert judge(one_hot(labels), candidate, labels, CLASSES, thresholds=lax).passed
    assert not judge(one_hot(labels), candidate, labels, CLASSES).passed


def test_paired_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        before = rng.random(800) < 0.65
        flips = rng.random(800) < 0.04
        drop, low, high = paired_drop(before, np.where(flips, ~before, before), seed=trial)
        # Right ones flip to wrong and wrong ones to right: expected loss 0.04 * (0.65 - 0.35).
        covered += low <= 0.04 * 0.3 <= high
        assert low <= drop <= high
    assert 0.9 <= covered / 200 <= 0.99


def test_divergence_of_known_distributions() -> None:
    p = np.array([[0.5, 0.5]])
    q = np.array([[0.25, 0.75]])
    assert mean_divergence(p, q) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert mean_divergence(p, p) == 0


def report_of(passed: bool) -> GateReport:
    return GateReport("int8", "", "", "", 1, True, passed, [], None, None, None, None, (0, 0, 0), 0, {})


def test_restores_until_it_passes() -> None:
    tried: list[frozenset[str]] = []
    order = [f"n{i}" for i in range(10)]

    def attempt(floats: frozenset[str]) -> GateReport:
        tried.append(floats)
        return report_of("n2" in floats)

    report, floats = pass_by_restoring(attempt, lambda: order)
    assert report.passed
    assert floats == {"n0", "n1", "n2", "n3"}
    assert [len(t) for t in tried] == [0, 1, 2, 4]


def test_a_model_that_passes_is_not_ranked() -> None:
    def ranking() -> list[str]:
        raise AssertionError("asked for")

    assert pass_by_restoring(lambda floats: report_of(True), ranking)[1] == frozenset()


def test_something_always_stays_quantised() -> None:
    """With every layer in float the gate would pass, and INT8 would be a name only."""
    tried: list[int] = []

    def attempt(floats: frozenset[str]) -> GateReport:
        tried.append(len(floats))
        return report_of(False)

    report, floats = pass_by_restoring(attempt, lambda: ["a", "b", "c"])
    assert not report.passed
    assert (tried, len(floats)) == ([0, 1, 2], 2)
    tried.clear()
    assert not pass_by_restoring(attempt, lambda: ["a"])[0].passed
    assert tried == [0]


def statistics(batch: np.ndarray, predicted: np.ndarray) -> object:
    collector = StatisticsCollector(3)
    for rows in np.array_split(np.arange(len(batch)), 3):
        collector.update(batch[rows], one_hot(predicted[rows]))
    return collector.result()


@pytest.fixture
def pictures() -> np.ndarray:
    """Smooth pictures whose red is brighter than their blue, as skin is."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 0.8, (60, 1, 6, 6)).repeat(8, axis=2).repeat(8, axis=3)
    tint = np.array([0.4, 0.0, -0.4]) + rng.normal(0, 0.1, (60, 3))
    return (coarse + tint[:, :, None, None] + rng.normal(0, 0.02, (60, 3, 48, 48))).astype(np.float32)


def test_features(pictures: np.ndarray) -> None:
    features = image_features(pictures)
    assert features.shape == (60, len(FEATURES))
    np.testing.assert_allclose(features[:, 0], pictures.mean(axis=(1, 2, 3)), atol=1e-5)
    noise = image_features(np.random.default_rng(1).normal(0, 1, (5, 3, 48, 48)).astype(np.float32))
    # Neighbours in white noise differ by 2/sqrt(pi) standard deviations on average.
    np.testing.assert_allclose(noise[:, 3], 2 / np.sqrt(np.pi), rtol=0.05)


def test_wrong_calibration_sets_are_named(pictures: np.ndarray) -> None:
    mixed = np.tile([0, 1, 2], 20)
    good = statistics(pictures, mixed)
    assert mismatches(statistics(pictures[::2], mixed[::2]), good, CLASSES) == []
    swapped = mismatches(statistics(np.ascontiguousarray(pictures[:, ::-1]), mixed), good, CLASSES)
    assert len(swapped) == 1
    assert "first channel less last" in swapped[0]
    one_class = mismatches(statistics(pictures, np.zeros(60, int)), good, CLASSES)
    assert one_class == ["the model sees 'a' in 100% of the calibration images: one class is not enough"]
    noise = np.random.default_rng(0).normal(0, 1, pictures.shape).astype(np.float32)
    assert any("grain" in r for r in mismatches(statistics(noise, mixed), good, CLASSES))
    dark = mismatches(statistics(pictures - 3, mixed), good, CLASSES)
    assert "brightness" in dark[0]


def test_statistics_survive_json(pictures: np.ndarray) -> None:
    found = statistics(pictures, np.zeros(60, int))
    again = type(found).from_dict({k: list(v) if isinstance(v, tuple) else v for k, v in found.to_dict().items()})
    assert again == found
    for bad in ({}, {**found.to_dict(), "mean": [1.0]}, {**found.to_dict(), "std": ["x"] * 4}, None):
        with pytest.raises(ValueError, match="statistics"):
            type(found).from_dict(bad)


def test_matching_temperature_undoes_a_scale() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (500, 3))
    assert match_temperature(3.0 * logits, softmax(logits, temperature=0.8)) == pytest.approx(2.4, rel=1e-3)
