"""What an export into a lower precision tells afterwards: a section of the model card, the report's data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from poster_edge.calib.gate import GateReport
from poster_edge.calib.qdq import find_sites
from poster_edge.cli.export_draft import Draft
from poster_edge.cli.export_precision import KINDS, Findings, Lowering
from poster_edge.runtime.manifest import MODEL_FILES
from poster_edge.train.metrics import softmax

if TYPE_CHECKING:
    from poster_edge.cli.export_report import ReportData


def card_section(draft: Draft, found: Findings) -> str:
    """Text of the card's section on precision: files, gate, calibration."""
    lines = ["## Precision", "", f"Runs in {draft.manifest.precision} unless asked otherwise.", ""]
    lines += ["| file | precision | judged on | FP32 | here | images that change class |", "|---|---|---|---|---|---|"]
    for file in (f for f in draft.files if f in MODEL_FILES):
        lines.append(_row(file, found.reports.get(file)))
    if found.calibration is not None and draft.manifest.calibration:
        made = any(MODEL_FILES.get(f, ("",))[0] == "int8" for f in draft.files)
        used = draft.manifest.calibration["method"] if made else "kept for later"
        lines += ["", f"INT8 ranges: {used}, from {found.calibration.images} images ({found.calibration.data})."]
    for file, report in found.reports.items():
        if report.restored and file in draft.files:
            lines += ["", f"Layers of {file} that stay in float: {', '.join(report.restored)}."]
    lines += ["", *found.notes] if found.notes else []
    return "\n".join(lines) + "\n"


def _row(file: str, report: GateReport | None) -> str:
    precision = MODEL_FILES[file][0]
    if report is None:
        what = "the reference" if precision == "fp32" else "not judged (--no-gate)"
        return f"| {file} | {precision} | {what} | | | |"
    before, after = (m["accuracy"] if m else None for m in (report.reference, report.candidate))
    figures = [f"{v:.2%}" if v is not None else "no labels" for v in (before, after)]
    rate, low, high = report.flip_rate
    judged = f"{report.data}, {report.images} images, {report.runtime}"
    return f"| {file} | {precision} | {judged} | {' | '.join(figures)} | {rate:.2%} ({low:.2%} to {high:.2%}) |"


def report_data(work: Lowering) -> ReportData:
    """Everything the HTML page shows."""
    from poster_edge.cli.export_report import ReportData

    found, manifest = work.found, work.draft.manifest
    first = next(iter(found.reports.values()))
    facts = {
        "model": manifest.model,
        "graph": f"sha256 {work.graph_hash}",
        "judged on": f"{first.data}, {first.images} images",
        "runtimes": ", ".join(dict.fromkeys(r.runtime for r in found.reports.values())),
    }
    if found.notes:
        facts["speed"] = "; ".join(found.notes)
    ranges: dict[str, dict[str, float]] = {}
    if found.calibration is not None:
        calibration = found.calibration
        facts["calibration"] = f"{calibration.images} images of {calibration.data}, seed {calibration.seed}"
        facts["ranges by"] = work.options.method
        facts["bits of a weight"] = str(work.options.weight_bits)
        facts["calibration data"] = f"sha256 {calibration.data_sha256}"
        ranges = calibration.ranges
    quantised = {t for s in find_sites(work.model) if s.kind in KINDS for t in s.activations}
    return ReportData(
        title=f"{manifest.model}: {', '.join(dict.fromkeys(r.precision for r in found.reports.values()))}",
        facts=facts,
        gates=list(found.reports.values()),
        sizes={f: p.stat().st_size for f, p in work.paths().items()},
        histograms={t: h for t, h in found.histograms.items() if t in quantised},
        ranges=ranges,
        method=work.options.method,
        errors=found.errors or work.layer_errors(),
        restored=sorted({n for r in found.reports.values() for n in r.restored}),
        faces=[work.judge.images.read(i) for i in first.flips],
        flip_texts=_captions(work, first),
        timings=found.timings,
        warnings=found.warnings,
    )


def _captions(work: Lowering, report: GateReport) -> list[str]:
    """What each image that changed class was taken for before and after, with its label where there is one."""
    logits = work.judge.last_logits[report.file]
    labels = work.judge.images.labels
    texts = []
    for i in report.flips:
        parts = [f"{n}: {_top(x[i], work.classes)}" for n, x in zip(("fp32", report.precision), logits, strict=True)]
        if labels is not None:
            parts.insert(0, f"true: {work.classes[labels[i]]}")
        texts.append("; ".join(parts))
    return texts


def _top(logits: NDArray[np.float32], classes: tuple[str, ...]) -> str:
    probabilities = softmax(logits[None])[0]
    best = int(probabilities.argmax())
    return f"{classes[best]} {probabilities[best]:.0%}"
