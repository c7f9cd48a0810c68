"""Averaging over time: by its definition, whatever the frame rate, and without flicker."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from poster_edge.vision.smooth import MARGIN, Smoother

HAPPY = np.array([0.9, 0.06, 0.04])
SAD = np.array([0.06, 0.9, 0.04])


def leaning(lead: float) -> NDArray[np.float64]:
    """Probabilities whose second class leads the first by so much."""
    return np.array([0.45 - lead / 2, 0.45 + lead / 2, 0.1])


def test_the_average_is_that_of_the_docstring() -> None:
    """The softmax of the mean logit, weighted by exp(-age / seconds)."""
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.01, 0.2, 30))
    logits = random.normal(0, 1.5, (30, 7))
    smoother = Smoother(0.4)
    for index in range(30):
        row = np.exp(logits[index])
        _, ours = smoother.update(1, row / row.sum(), times[index])
        weights = np.exp(-(times[index] - times[: index + 1]) / 0.4)
        mean = np.exp((weights[:, None] * logits[: index + 1]).sum(0) / weights.sum())
        np.testing.assert_allclose(ours, mean / mean.sum(), atol=1e-12)


def test_the_first_moments_are_the_plain_mean_of_what_there_is() -> None:
    smoother = Smoother(1e9)
    np.testing.assert_allclose(smoother.update(1, HAPPY, 0.0)[1], HAPPY)
    _, both = smoother.update(1, SAD, 1.0)
    assert both[0] == pytest.approx(both[1])


@pytest.mark.parametrize("rate", [5, 25, 100])
def test_a_change_shows_after_the_same_time_at_any_frame_rate(rate: int) -> None:
    smoother = Smoother(0.5)
    for frame in range(5 * rate):
        smoother.update(1, HAPPY, frame / rate)
    for frame in range(5 * rate, 10 * rate):
        label, _ = smoother.update(1, SAD, frame / rate)
        if label == 1:
            assert frame / rate - 5 == pytest.approx(0.5 * math.log(2), abs=0.1 + 1 / rate)
            return
    pytest.fail("the change never showed")


def test_what_wavers_within_the_margin_keeps_its_label() -> None:
    smoother = Smoother(0.05)
    label, _ = smoother.update(1, leaning(-0.2), 0.0)
    for frame in range(1, 200):
        label, averaged = smoother.update(1, leaning(0.8 * MARGIN * (-1) ** frame), frame / 25)
        assert label == 0
    for frame in range(200, 300):
        label, averaged = smoother.update(1, leaning(2 * MARGIN), frame / 25)
    assert label == int(averaged.argmax()) == 1


def test_one_frame_that_is_sure_does_not_outvote_the_others() -> None:
    smoother = Smoother(0.5)
    for frame in range(25):
        smoother.update(1, HAPPY, frame / 25)
    label, averaged = smoother.update(1, np.array([0.0, 1.0, 0.0]), 1.0)
    assert label == int(averaged.argmax()) == 0


def test_faces_do_not_mix_and_are_forgotten() -> None:
    smoother = Smoother(10.0)
    smoother.update(1, HAPPY, 0.0)
    label, averaged = smoother.update(2, SAD, 0.0)
    np.testing.assert_allclose(averaged, SAD)
    assert label == 1
    smoother.keep({2})
    np.testing.assert_allclose(smoother.update(1, SAD, 0.1)[1], SAD)


@pytest.mark.parametrize("seconds", [1e-300, 1e-9, 1e300])
def test_extreme_settings_give_probabilities(seconds: float) -> None:
    smoother = Smoother(seconds)
    for frame in range(10):
        _, averaged = smoother.update(1, (HAPPY, SAD)[frame % 2], frame / 25)
        assert averaged.sum() == pytest.approx(1)
        assert np.isfinite(averaged).all()
