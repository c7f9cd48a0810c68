"""Classification metrics in plain numpy: accuracy, F1, recall, confusion, calibration error.

Expected calibration error: Guo et al., "On Calibration of Modern Neural Networks" (2017), eq. 3,
with 15 equal-width bins.  Intervals of shares: Wilson, "Probable inference, the law of succession,
and statistical inference" (1927).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15


@dataclass(frozen=True)
class Metrics:
    """What one evaluation found; fractions of 1 unless said.

    Attributes:
        count: number of samples.
        accuracy: share of samples whose most probable class is the label.
        accuracy_ci95: distance to the farther end of the accuracy's 95 % interval (Wilson's), which is
            not 0 where a few faces are all told rightly, or all wrongly.
        mean_class_accuracy: mean of the recalls of the classes that occur.
        macro_f1: mean F1 of the classes that occur.
        nll: mean negative log-likelihood in nats.
        ece: expected calibration error.
        recall: per class name; None where the class does not occur.
        confusion: rows are true classes, columns predicted ones, counts.
    """

    count: int
    accuracy: float
    accuracy_ci95: float
    mean_class_accuracy: float
    macro_f1: float
    nll: float
    ece: float
    recall: dict[str, float | None]
    confusion: list[list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def softmax(logits: NDArray[np.floating], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities (N, C) of logits (N, C) divided by a temperature."""
    scaled = np.asarray(logits, np.float64) / temperature
    exp = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Counts (C, C): true class in rows, predicted class in columns."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    # C·C -> C x C
    return flat.reshape(num_classes, num_classes)


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float, float]:
    """A share with Wilson's 95 % interval: (share, low, high)."""
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return share, max(0.0, centre - half), min(1.0, centre + half)


def calibration_error(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Expected calibration error of the most probable class."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


def evaluate(
    logits: NDArray[np.floating], labels: NDArray[np.int64], classes: tuple[str, ...], *, temperature: float = 1.0
) -> Metrics:
    """Measure predictions.

    Args:
        logits: (N, C) with N of at least 1.
        labels: (N,).
        classes: C names.
        temperature: divides the logits before the softmax.
    """
    probabilities = softmax(logits, temperature=temperature)
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    hits, actual, claimed = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    occurs = actual > 0
    recall = hits / np.maximum(actual, 1)
    f1 = 2 * hits / np.maximum(actual + claimed, 1)
    accuracy, low, high = wilson(int(hits.sum()), len(labels))
    likelihood = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-300)
    return Metrics(
        count=len(labels),
        accuracy=accuracy,
        accuracy_ci95=max(accuracy - low, high - accuracy),
        mean_class_accuracy=float(recall[occurs].mean()),
        macro_f1=float(f1[occurs].mean()),
        nll=float(-np.log(likelihood).mean()),
        ece=calibration_error(probabilities, labels),
        recall={c: float(r) if o else None for c, r, o in zip(classes, recall, occurs, strict=True)},
        confusion=matrix.tolist(),
    )
