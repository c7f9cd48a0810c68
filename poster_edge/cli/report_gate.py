"""What the accuracy gate found, for :mod:`poster_edge.cli.export_report`: words, intervals, recall per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poster_edge.calib.gate import GateReport
from poster_edge.cli.report_html import escape, figure, figures, items
from poster_edge.cli.report_plots import Interval, Pair, interval_plot, pair_plot, signed

#: Title, key in a gate's metrics, whether a share in per cent.
_METRICS = (
    ("accuracy", "accuracy", True),
    ("mean class accuracy", "mean_class_accuracy", True),
    ("macro F1", "macro_f1", False),
    ("expected calibration error", "ece", False),
    ("negative log-likelihood, nats", "nll", False),
)
_REFUSED = '<span class="key refused"></span> beyond the limit.'


def name_of(gate: GateReport) -> str:
    """What a model is called on the page."""
    return gate.file or gate.precision or "candidate"


def verdict_of(gate: GateReport) -> str:
    """One model's verdict in words: the reasons first, then what was measured and on what."""
    mark = "✓ passed" if gate.passed else "✗ failed"
    known = [t for t in (gate.precision, gate.runtime, gate.data, f"{gate.images} images") if t]
    count = len(gate.restored)
    restored = f"<p>{count} layer{'s' if count > 1 else ''} went back to float.</p>" if count else ""
    return (
        f"<h3>{escape(name_of(gate))}: {mark}</h3>\n{items(gate.reasons)}"
        f'<p>{escape(_summary(gate))}</p>\n{restored}<p class="small">{escape(", ".join(known))}</p>\n'
    )


def _summary(gate: GateReport) -> str:
    if gate.reference and gate.candidate and gate.accuracy_drop:
        return (
            f"Accuracy {gate.reference['accuracy']:.1%} in float32, {gate.candidate['accuracy']:.1%} here; "
            f"{gate.flip_rate[0]:.1%} of the images change class."
        )
    return f"{gate.flip_rate[0]:.1%} of the images change class; mean divergence {gate.mean_kl:.4f} nats."


def costs(gates: Sequence[GateReport]) -> str:
    """What all models lose, each plot with a row per model."""
    return figures([_accuracy(gates), _agreement(gates), _divergence(gates)])


def _accuracy(gates: Sequence[GateReport]) -> str:
    rows = []
    for gate in gates:
        if gate.accuracy_drop is None or gate.reference is None:
            continue
        drop, low, high = (100 * v for v in gate.accuracy_drop)
        limit = 100 * (1 - gate.thresholds["accuracy_ratio"]) * gate.reference["accuracy"]
        text = f"{signed(drop)} ({signed(low)} to {signed(high)}), limit {limit:.2f}"
        rows.append(Interval(name_of(gate), text, drop, low, high, limit))
    if not rows:
        return ""
    plot = interval_plot("Accuracy lost", "accuracy lost, percentage points", rows)
    return figure(
        "Accuracy lost", plot, f"Dot: measured; line: 95% interval over the images. {_REFUSED} Left of 0 is a gain."
    )


def _agreement(gates: Sequence[GateReport]) -> str:
    rows = []
    for gate in gates:
        rate, low, high = (100 * v for v in gate.flip_rate)
        limit = None if gate.labelled else 100 * gate.thresholds["flip_rate"]
        bound = "" if limit is None else f", limit {limit:g}%"
        rows.append(Interval(name_of(gate), f"{rate:.2f}% ({low:.2f} to {high:.2f}){bound}", rate, low, high, limit))
    if not rows:
        return ""
    plot = interval_plot("Images that change class", "images that change class, %", rows)
    limited = any(r.limit is not None for r in rows)
    return figure(
        "Images that change class",
        plot,
        f"Whether right or wrong before. Line: 95% interval. {_REFUSED if limited else 'No limit: there are labels.'}",
    )


def _divergence(gates: Sequence[GateReport]) -> str:
    """Judged only where there are no labels, and shown only there; elsewhere it is in the table."""
    rows = []
    for gate in gates:
        if not gate.labelled:
            limit = gate.thresholds["mean_kl"]
            text = f"{gate.mean_kl:.4f}, limit {limit:g}"
            rows.append(Interval(name_of(gate), text, gate.mean_kl, gate.mean_kl, gate.mean_kl, limit))
    if not rows:
        return ""
    plot = interval_plot("Divergence of the probabilities", "mean KL divergence from float32, nats", rows)
    return figure("Divergence of the probabilities", plot, _REFUSED)


def per_class(gate: GateReport) -> str:
    """One model's recalls and metrics before and after, where there are labels."""
    before, after = gate.reference, gate.candidate
    if before is None or after is None:
        return ""
    heading = f"<h3>{escape(name_of(gate))}</h3>\n"
    return heading + figures([_recall(gate, before["recall"], after["recall"]), _metrics(gate, before, after)])


def _recall(gate: GateReport, before: dict[str, float | None], after: dict[str, float | None]) -> str:
    limit, rows = gate.thresholds["class_drop"], []
    for name, old in before.items():
        new = after[name]
        if old is not None and new is not None:
            text = f"{old:.1%} → {new:.1%} ({signed(100 * (new - old), 1)})"
            rows.append(Pair(name, text, 100 * old, 100 * new, 100 * (old - limit)))
    plot = pair_plot("Recall of each class", "recall, %", rows, bounds=(0.0, 100.0))
    return figure(
        "Recall of each class",
        plot,
        f'<span class="key ring"></span> float32, <span class="key dot"></span> {escape(gate.precision or "here")}, '
        f'<span class="key refused"></span> loss of more than {100 * limit:g} points; '
        "a net loss of fewer than three images is not counted.",
    )


def _metrics(gate: GateReport, before: dict[str, Any], after: dict[str, Any]) -> str:
    rows = [
        f"<tr><th></th><th>float32</th><th>{escape(gate.precision or 'here')}</th><th>change</th></tr>",
        *(_metric_row(title, before[key], after[key], percent=percent) for title, key, percent in _METRICS),
        f"<tr><th>divergence from float32, nats</th><td></td><td></td><td>{gate.mean_kl:.4f}</td></tr>",
    ]
    return figure(
        "Before and after",
        '<table class="numbers">\n' + "\n".join(rows) + "\n</table>",
        f"Accuracy is known to ± {before['accuracy_ci95']:.1%} from {gate.images} images; the loss, measured image by "
        "image, is known better.",
    )


def _metric_row(title: str, before: float, after: float, *, percent: bool) -> str:
    if percent:
        old, new, change = f"{before:.2%}", f"{after:.2%}", signed(100 * (after - before))
    else:
        old, new, change = f"{before:.4f}", f"{after:.4f}", signed(after - before, 4)
    return f"<tr><th>{title}</th><td>{old}</td><td>{new}</td><td>{change}</td></tr>"
