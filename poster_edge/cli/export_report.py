"""The page of ``poster-edge export --report``: one file that needs no script and fetches nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.calib.gate import GateReport
from poster_edge.calib.histogram import StreamingHistogram
from poster_edge.calib.sensitivity import LayerError
from poster_edge.cli.report_gate import costs, name_of, per_class, verdict_of
from poster_edge.cli.report_html import STYLE, escape, figure, figures, items, section
from poster_edge.cli.report_plots import Bar, bar_axis, bar_plot, range_plot, rounding_error
from poster_edge.errors import PosterEdgeError
from poster_edge.files import write_atomic

#: Layers and tensors that are shown, worst first.
TOP_LAYERS, TOP_TENSORS = 30, 9
#: Longer side of a face as it is embedded; larger crops are reduced.
FACE_PX = 160


@dataclass(frozen=True)
class ReportData:
    """What the page shows; parts that are empty are left out.

    Attributes:
        title: such as "poster-nano: int8".
        facts: shown as a table: calibration set, method, images, graph hash, tools.
        gates: one per model file that was judged.
        sizes: file name -> bytes.
        histograms: magnitudes of the tensors that are quantised; empty where the ranges came from a file.
        ranges: tensor -> method -> range.
        method: the method that was used.
        errors: of the layers in INT8, largest first.
        restored: nodes that went back to float.
        faces: crops of ``gates[0].flips``, in that order; uint8 (h, w) gray or (h, w, 3) BGR.
        flip_texts: a caption for each, its parts set apart by semicolons.
        timings: (candidate, median ms, 90th percentile ms).
        warnings: in words, beside the reasons of gates.
    """

    title: str
    facts: dict[str, str]
    gates: list[GateReport]
    sizes: dict[str, int]
    histograms: dict[str, StreamingHistogram]
    ranges: dict[str, dict[str, float]]
    method: str
    errors: list[LayerError]
    restored: list[str]
    faces: list[NDArray[np.uint8]]
    flip_texts: list[str]
    timings: list[tuple[str, float, float]]
    warnings: list[str]


def write_report(folder: Path, data: ReportData) -> Path:
    """Write ``folder/index.html`` whole or not at all; returns its path.

    Raises:
        PosterEdgeError: the folder cannot be written.
    """
    path = folder / "index.html"
    write_atomic(path, _page(data))
    return path


def _page(data: ReportData) -> str:
    sections = "\n".join(
        part
        for part in (
            _verdict(data),
            section("What it costs", [costs(data.gates), *map(per_class, data.gates)]),
            section("What it gives", [figures([_sizes(data.sizes), _timings(data.timings)])]),
            section("Faces that changed class", [_flips(data)]),
            section("Error of each layer", [_layers(data)]),
            section("Ranges", [_ranges(data)]),
            section("Facts", [_facts(data.facts)]),
            section("Warnings", [items(data.warnings)], ident="warnings"),
        )
        if part
    )
    title = escape(data.title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{sections}
</main>
</body>
</html>
"""


# The verdict --------------------------------------------------------------------------------------------------


def _verdict(data: ReportData) -> str:
    failed = [g for g in data.gates if not g.passed]
    if not data.gates:
        kind, word, told = "unknown", "? Not judged", "No gate was run: what this precision costs is not known."
    elif failed:
        kind, word = "failed", "✗ Failed"
        several = f"{len(failed)} of {len(data.gates)} models fail."
        told = several if len(data.gates) > 1 else "A threshold is not kept."
    else:
        kind, word = "passed", "✓ Passed"
        told = "Every threshold is kept."
    if count := len(data.warnings):
        told += f' <a href="#warnings">{count} warning{"s" if count > 1 else ""}</a>'
    models = "".join(map(verdict_of, data.gates))
    return f'<section class="verdict {kind}">\n<p class="word">{word}</p>\n<p>{told}</p>\n{models}</section>'


# What it gives ------------------------------------------------------------------------------------------------


def _sizes(sizes: dict[str, int]) -> str:
    if not sizes:
        return ""
    most = max(sizes.values())
    rows = [
        Bar(name, f"{size / 1e6:.2f} MB{'' if size == most else f', {size / most:.0%}'}", size / 1e6)
        for name, size in sizes.items()
    ]
    plot = bar_plot("Size of the files", "size, MB", rows)
    return figure("Size of the files", plot, "Share of the largest file." if len(rows) > 1 else "")


def _timings(timings: Sequence[tuple[str, float, float]]) -> str:
    if not timings:
        return ""
    rows = [Bar(name, f"{p50:.2f} ms, p90 {p90:.2f} ms", p50, whisker=p90) for name, p50, p90 in timings]
    plot = bar_plot("Time on this machine", "time, ms", rows)
    return figure("Time on this machine", plot, "Bar: median; line: up to the 90th percentile.")


# Faces, layers, ranges ----------------------------------------------------------------------------------------


def _flips(data: ReportData) -> str:
    if not data.faces:
        return ""
    gate = data.gates[0]
    faces = "\n".join(_face(crop, text) for crop, text in zip(data.faces, data.flip_texts, strict=True))
    total = round(gate.flip_rate[0] * gate.images)
    some = "The" if len(data.faces) >= total else f"{len(data.faces)} of the"
    told = f"{some} {total} images that {name_of(gate)} puts into another class, of {gate.images} judged."
    return f'<p>{escape(told)}</p>\n<div class="faces">\n{faces}\n</div>'


def _face(crop: NDArray[np.uint8], text: str) -> str:
    height, width = crop.shape[:2]
    factor = FACE_PX / max(height, width)
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        crop = np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8)
    done, png = cv2.imencode(".png", crop)
    if not done:
        raise PosterEdgeError(f"cannot encode a face of shape {crop.shape}")
    lines = "<br>".join(escape(part.strip()) for part in text.split(";"))
    source = base64.b64encode(png.tobytes()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="Face, {escape(text)}">'
        f"<figcaption>{lines}</figcaption></figure>"
    )


def _layers(data: ReportData) -> str:
    shown, restored = data.errors[:TOP_LAYERS], frozenset(data.restored)
    others = restored - {e.node for e in shown}
    also = "Also in float" if len(others) < len(restored) else "In float"
    rest = f"<p>{also}: {escape(', '.join(sorted(others)))}</p>" if others else ""
    if not shown:
        return rest
    bars = [_layer_bar(e, hollow=e.node in restored) for e in shown]
    axis, half = bar_axis(bars, log=True), (len(bars) + 1) // 2
    columns = [bars] if len(bars) < 10 else [bars[:half], bars[half:]]
    unit = "error of the output, % (log scale)"
    plots = [figure("", bar_plot("Error of each layer", unit, rows, axis=axis, percent=True)) for rows in columns]
    some = f", the {len(shown)} worst of {len(data.errors)}" if len(shown) < len(data.errors) else ""
    hollow = '<span class="key hollow"></span> computed in float again.' if any(b.hollow for b in bars) else ""
    told = f"What each layer alone loses in INT8{some}: root of the squared error over the squared output."
    return f"<p>{told} {hollow}</p>\n{figures(plots)}\n{rest}"


def _layer_bar(error: LayerError, *, hollow: bool) -> Bar:
    text = f"{100 * error.relative:.2g}%{', in float' if hollow else ''}"
    return Bar(f"{error.node} ({error.kind})", text, error.relative, hollow=hollow)


def _ranges(data: ReportData) -> str:
    method = data.method
    lost = {
        name: rounding_error(h, data.ranges[name][method])
        for name, h in data.histograms.items()
        if h.maximum and method in data.ranges.get(name, {})
    }
    worst = sorted(lost, key=lambda name: -lost[name])[:TOP_TENSORS]
    if not worst:
        return ""
    plots = [
        figure(
            name,
            range_plot(f"Magnitudes of {name}", data.histograms[name], data.ranges[name], method),
            f"{100 * lost[name]:.2g}% lost by rounding and clipping",
        )
        for name in worst
    ]
    some = (
        f" The {len(worst)} of {len(lost)} tensors that lose most (root of the squared error)."
        if len(worst) < len(lost)
        else ""
    )
    told = f"How often each magnitude occurs (logarithmic height) and where each method cuts; {method} is used.{some}"
    return f"<p>{escape(told)}</p>\n{figures(plots, 'figures dense')}"


def _facts(facts: dict[str, str]) -> str:
    rows = "\n".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    return f'<table class="facts">\n{rows}\n</table>' if rows else ""
