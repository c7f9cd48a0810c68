"""The accuracy gate: float32 against a lower precision on the same images, before anything is written.

Labelled images judge accuracy; unlabelled ones judge agreement.  Intervals are 95 %: a paired
bootstrap over images for differences, Wilson's interval for the share of flips (Wilson, 1927).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.train.metrics import Metrics, evaluate, softmax, wilson

_RESAMPLES = 1000


@dataclass(frozen=True)
class Thresholds:
    """What a lower precision may cost.

    Attributes:
        accuracy_ratio: least share of float32's accuracy that must be left.
        class_drop: largest loss of a class's recall; a net loss of fewer than three images is not counted.
        flip_rate: largest share of images that change class, where there are no labels.
        mean_kl: largest mean divergence from float32's probabilities in nats, where there are no labels.
    """

    accuracy_ratio: float = 0.99
    class_drop: float = 0.03
    flip_rate: float = 0.05
    mean_kl: float = 0.02


@dataclass(frozen=True)
class GateReport:
    """What the gate found for one model.

    Attributes:
        precision: of the candidate.
        file: its name in the bundle.
        runtime: what executed it.
        data: what was judged on.
        images: how many.
        labelled: whether accuracy was judged, or agreement only.
        passed: whether every threshold is kept.
        reasons: why not, in words.
        reference: float32's metrics (labelled only).
        candidate: the candidate's metrics (labelled only).
        accuracy_drop: float32's accuracy less the candidate's, with its interval (labelled only).
        worst_class: name and loss of recall of the class that lost most (labelled only).
        flip_rate: share of images whose most probable class changed, with its interval.
        mean_kl: mean Kullback-Leibler divergence from float32's probabilities, in nats.
        thresholds: what was asked.
        restored: nodes that went back to float until the gate passed.
        flips: rows of the images that changed class, at most 64.
    """

    precision: str
    file: str
    runtime: str
    data: str
    images: int
    labelled: bool
    passed: bool
    reasons: list[str]
    reference: dict[str, Any] | None
    candidate: dict[str, Any] | None
    accuracy_drop: tuple[float, float, float] | None
    worst_class: tuple[str, float] | None
    flip_rate: tuple[float, float, float]
    mean_kl: float
    thresholds: dict[str, float]
    restored: list[str] = field(default_factory=list)
    flips: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "failed"
        rate, low, high = self.flip_rate
        agreement = (
            f"{rate:.2%} of {self.images} images change class ({low:.2%} to {high:.2%}), mean KL {self.mean_kl:.4f}"
        )
        if self.accuracy_drop is None or self.reference is None or self.candidate is None:
            return f"gate {verdict}: {agreement}"
        drop, low, high = self.accuracy_drop
        return (
            f"gate {verdict}: accuracy {self.reference['accuracy']:.2%} -> {self.candidate['accuracy']:.2%} "
            f"(loss {100 * drop:+.2f} points, {100 * low:+.2f} to {100 * high:+.2f}); {agreement}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


def judge(
    reference: NDArray[np.floating],
    candidate: NDArray[np.floating],
    labels: NDArray[np.int64] | None,
    classes: Sequence[str],
    *,
    temperatures: tuple[float, float] = (1.0, 1.0),
    thresholds: Thresholds = Thresholds(),
    precision: str = "",
    file: str = "",
    runtime: str = "",
    data: str = "",
) -> GateReport:
    """Compare a candidate's logits (N, C) with float32's on the same N images.

    Args:
        reference: float32's logits.
        candidate: the candidate's.
        labels: (N,), or None where there are none.
        classes: C names.
        temperatures: of the two, applied before probabilities are compared.
        thresholds: what the candidate may cost.
        precision, file, runtime, data: for the report.
    """
    p, q = (softmax(x, temperature=t) for x, t in zip((reference, candidate), temperatures, strict=True))
    flipped = p.argmax(axis=1) != q.argmax(axis=1)
    reasons: list[str] = []
    if not np.isfinite(candidate).all():
        bad = int((~np.isfinite(candidate)).any(axis=1).sum())
        reasons.append(f"{bad} of {len(candidate)} images give values that are not finite")
        flipped, q = np.ones_like(flipped), np.full_like(q, 1 / q.shape[1])
    flips, kl = wilson(int(flipped.sum()), len(flipped)), mean_divergence(p, q)
    before = after = drop = worst = None
    if labels is None:
        if flips[0] > thresholds.flip_rate:
            reasons.append(f"{flips[0]:.2%} of the images change class, at most {thresholds.flip_rate:.2%} may")
        if kl > thresholds.mean_kl:
            reasons.append(f"the mean divergence is {kl:.4f} nats, at most {thresholds.mean_kl:g} is accepted")
    elif not reasons:
        names = tuple(classes)
        before = evaluate(reference, labels, names, temperature=temperatures[0])
        after = evaluate(candidate, labels, names, temperature=temperatures[1])
        drop, worst = paired_drop(p.argmax(axis=1) == labels, q.argmax(axis=1) == labels), worst_class(before, after)
        if after.accuracy < thresholds.accuracy_ratio * before.accuracy:
            reasons.append(
                f"accuracy {after.accuracy:.2%} is below {thresholds.accuracy_ratio:.0%} of "
                f"float32's {before.accuracy:.2%}"
            )
        reasons += _class_losses(before, after, thresholds.class_drop)
    return GateReport(
        precision,
        file,
        runtime,
        data,
        len(reference),
        labels is not None,
        not reasons,
        reasons,
        before.to_dict() if before else None,
        after.to_dict() if after else None,
        drop,
        worst,
        flips,
        kl,
        asdict(thresholds),
        flips=np.flatnonzero(flipped)[:64].tolist(),
    )


def mean_divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Mean over rows of KL(p || q) in nats; rows are distributions."""
    floor = 1e-12
    return float((p * (np.log(np.maximum(p, floor)) - np.log(np.maximum(q, floor)))).sum(axis=1).mean())


def paired_drop(before: NDArray[np.bool_], after: NDArray[np.bool_], *, seed: int = 0) -> tuple[float, float, float]:
    """Loss of accuracy with its 95 % interval from a bootstrap over images, each kept with its pair."""
    difference = before.astype(np.int64) - after.astype(np.int64)
    count = len(difference)
    # Resampling N differences of -1, 0, 1 is a draw from a multinomial with their shares.
    shares = [(difference == value).mean() for value in (-1, 0, 1)]
    draws = np.random.default_rng(seed).multinomial(count, shares, size=_RESAMPLES)
    losses = (draws[:, 2] - draws[:, 0]) / count
    low, high = np.percentile(losses, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def worst_class(before: Metrics, after: Metrics) -> tuple[str, float]:
    """The class that lost most of its recall, and how much."""
    losses = {
        name: old - new
        for name, old in before.recall.items()
        if old is not None and (new := after.recall[name]) is not None
    }
    name = max(losses, key=losses.__getitem__)
    return name, losses[name]


def _class_losses(before: Metrics, after: Metrics, limit: float) -> list[str]:
    reasons = []
    for k, (name, old) in enumerate(before.recall.items()):
        new, count = after.recall[name], sum(before.confusion[k])
        if old is None or new is None:
            continue
        if old - new > limit and round((old - new) * count) >= 3:
            reasons.append(f"'{name}' falls from {old:.1%} to {new:.1%}, more than {100 * limit:g} points")
    return reasons


def pass_by_restoring(
    attempt: Callable[[frozenset[str]], GateReport], ranking: Callable[[], Sequence[str]]
) -> tuple[GateReport, frozenset[str]]:
    """Put the most sensitive nodes back into float, twice as many each time, until the gate passes.

    Args:
        attempt: builds and judges a model with these nodes in float.
        ranking: node names, most sensitive first; asked for only when the first attempt fails.

    Returns:
        the last report and the nodes in float.  Some always stay quantised: a model without any would
        pass, and be none of the precision it claims.
    """
    report, kept = attempt(frozenset()), frozenset[str]()
    if report.passed:
        return report, kept
    order = list(ranking())
    count = 1
    while not report.passed and count < len(order):
        kept = frozenset(order[:count])
        report = attempt(kept)
        count *= 2
    return report, kept
