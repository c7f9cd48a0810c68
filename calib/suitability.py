"""Do the calibration images look like the faces the model will see?

INT8 ranges from noise, from one class or from swapped colours can still give a plausible accuracy;
what is wrong is the images, so the images are compared: a few features of each, and the classes the
float32 model sees in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Features of one normalised image (3, S, S).
FEATURES = ("brightness", "contrast", "first channel less last", "grain")
#: Largest accepted distance of two sets' means, in standard deviations between images (Cohen's d).
MAX_DISTANCE = 1.0
#: Largest accepted share of one predicted class, where the reference shows several classes.
MAX_SHARE = 0.8
#: Sets smaller than this say nothing about classes.
_FEW = 16


@dataclass(frozen=True)
class ImageStatistics:
    """Mean and spread of each feature of a set of images, and the classes a model saw in them.

    Attributes:
        images: how many.
        mean: of each of ``FEATURES`` over the images.
        std: likewise, the standard deviation between images.
        class_shares: share of the images that the float32 model put into each class.
    """

    images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_shares: tuple[float, ...]

    @classmethod
    def from_dict(cls, values: Any) -> ImageStatistics:
        """Check and read what :func:`dataclasses.asdict` wrote.

        Raises:
            ValueError: says what is wrong.
        """
        if not isinstance(values, dict) or set(values) != {f.name for f in fields(cls)}:
            raise ValueError("statistics: unexpected or missing entries")
        lists = {k: v for k, v in values.items() if k != "images"}
        for name, numbers in lists.items():
            if not isinstance(numbers, list) or not all(
                isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers
            ):
                raise ValueError(f"statistics: '{name}' must be a list of numbers")
        if len(values["mean"]) != len(FEATURES) or len(values["std"]) != len(FEATURES):
            raise ValueError(f"statistics: expected {len(FEATURES)} features")
        return cls(int(values["images"]), *(tuple(map(float, lists[n])) for n in ("mean", "std", "class_shares")))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class StatisticsCollector:
    """Features of images that pass by, batch by batch, in bounded memory."""

    def __init__(self, num_classes: int) -> None:
        self.rows: list[NDArray[np.float64]] = []
        self.classes = np.zeros(num_classes, np.int64)

    def update(self, batch: NDArray[np.float32], logits: NDArray[np.floating]) -> None:
        """Add images (N, 3, S, S), normalised, and the float32 model's logits (N, C) of them."""
        self.rows.append(image_features(batch))
        self.classes += np.bincount(logits.argmax(axis=1), minlength=len(self.classes))

    def result(self) -> ImageStatistics:
        """Statistics of all images so far; at least one."""
        rows = np.concatenate(self.rows)
        shares = self.classes / max(self.classes.sum(), 1)
        return ImageStatistics(
            len(rows),
            *(tuple(round(float(v), 6) for v in row) for row in (rows.mean(axis=0), rows.std(axis=0), shares)),
        )


def image_features(batch: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 3, S, S) -> (N, len(FEATURES))."""
    images = np.asarray(batch, np.float64)
    gray = images.mean(axis=1)
    contrast = gray.std(axis=(1, 2))
    # Mean step between neighbours over the contrast: small for anything photographed, 1.1 for white noise.
    steps = (np.abs(np.diff(gray, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(gray, axis=2)).mean(axis=(1, 2))) / 2
    channels = images.mean(axis=(2, 3))
    return np.stack(
        [gray.mean(axis=(1, 2)), contrast, channels[:, 0] - channels[:, 2], steps / np.maximum(contrast, 1e-6)], axis=1
    )


def mismatches(
    calibration: ImageStatistics,
    reference: ImageStatistics,
    classes: Iterable[str],
    *,
    max_distance: float = MAX_DISTANCE,
) -> list[str]:
    """Reasons to distrust a calibration set, in words; none when it looks like the reference.

    Args:
        calibration: of the calibration images.
        reference: of images that the result is judged on.
        classes: class names.
        max_distance: see :data:`MAX_DISTANCE`; widened for small sets by three standard errors.
    """
    reasons = []
    limit = max(max_distance, 3 * math.sqrt(1 / calibration.images + 1 / reference.images))
    for i, feature in enumerate(FEATURES):
        spread = math.sqrt((calibration.std[i] ** 2 + reference.std[i] ** 2) / 2)
        gap = calibration.mean[i] - reference.mean[i]
        # Gray input has no colour at all: both spreads and the gap are rounding noise.
        if abs(gap) > 1e-3 and abs(gap) > limit * max(spread, 1e-3):
            reasons.append(
                f"the calibration images differ from those judged on in {feature}: "
                f"{calibration.mean[i]:.2f} against {reference.mean[i]:.2f} (normalised input)"
            )
    names = list(classes)
    if calibration.images >= _FEW and len(calibration.class_shares) == len(names):
        top = int(np.argmax(calibration.class_shares))
        share, usual = calibration.class_shares[top], reference.class_shares[top]
        if share > MAX_SHARE and usual < 0.5:
            reasons.append(
                f"the model sees '{names[top]}' in {share:.0%} of the calibration images: one class is not enough"
            )
    return reasons
