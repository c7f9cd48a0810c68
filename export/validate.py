"""Two ways to compute the same thing, compared on real inputs: names, then shapes, then values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Model = Callable[[NDArray[np.float32]], NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; true when everything is within tolerance.

    Attributes:
        images: number of inputs.
        max_abs: largest absolute difference of a logit.
        mean_abs: mean absolute difference.
        scale: largest absolute value of the reference.
        agree: share of inputs with the same most probable class.
        tolerance: largest accepted ``max_abs / scale``.
        problem: "" or what kept the values from being compared.
    """

    images: int
    max_abs: float
    mean_abs: float
    scale: float
    agree: float
    tolerance: float
    problem: str = ""

    def __bool__(self) -> bool:
        return not self.problem and self.max_abs <= self.tolerance * max(self.scale, 1e-6)

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        return (
            f"largest difference {self.max_abs:.2e} (mean {self.mean_abs:.2e}) on logits up to {self.scale:.3g}, "
            f"same class for {self.agree:.1%} of {self.images} images"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


def compare(
    reference: Model, candidate: Model, batches: Iterable[NDArray[np.float32]], *, tolerance: float
) -> Comparison:
    """Run both on the same batches.

    Args:
        reference: (N, 3, S, S) -> (N, C).
        candidate: the same.
        batches: inputs; batches of different sizes exercise a dynamic batch.
        tolerance: largest accepted difference over the largest reference value.
    """
    expected, found = [], []
    for batch in batches:
        want, got = np.asarray(reference(batch), np.float64), np.asarray(candidate(batch), np.float64)
        if want.shape != got.shape:
            return _failed(f"shapes differ: expected {want.shape}, got {got.shape}", tolerance)
        expected.append(want)
        found.append(got)
    if not expected:
        return _failed("no images to compare on", tolerance)
    want, got = np.concatenate(expected), np.concatenate(found)
    if not np.isfinite(got).all():
        return _failed(f"{int((~np.isfinite(got)).sum())} values are not finite", tolerance)
    difference = np.abs(want - got)
    return Comparison(
        images=len(want),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        scale=float(np.abs(want).max()),
        agree=float((want.argmax(axis=1) == got.argmax(axis=1)).mean()),
        tolerance=tolerance,
    )


def _failed(problem: str, tolerance: float) -> Comparison:
    return Comparison(0, float("nan"), float("nan"), float("nan"), 0.0, tolerance, problem)
