"""Latency against accuracy, size of the model as area: one layout, drawn as a page's SVG or as a PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.bench.records import Record, Row
from poster_edge.cli.report_html import STYLE, escape, figure, figures, section
from poster_edge.cli.report_plots import Axis, Drawing, linear_axis, plain
from poster_edge.files import write_atomic

_WIDTH, _HEIGHT = 760, 470
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 24, 18, 58
#: Area of the largest circle's radius in pixels; the others follow their files' sizes.
_RADIUS, _SMALLEST = 24.0, 4.0
_LETTER, _LINE = 7.4, 16
#: Okabe and Ito's colours, as red, green and blue; the label beside each circle says the same.
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
_PNG_SCALE = 2


@dataclass(frozen=True)
class Point:
    """A circle with its label: ``x`` and ``y`` its middle, ``label_at`` where the text begins."""

    x: float
    y: float
    radius: float
    colour: int
    label: str
    label_at: tuple[float, float]
    told: str

    @property
    def leader(self) -> tuple[float, float] | None:
        """Where a line from the middle to the label ends; None where the label is beside the circle."""
        return _leader(self.label, self.x, self.y, self.radius, self.label_at)


@dataclass(frozen=True)
class Scatter:
    """A plot before it is drawn."""

    title: str
    x_axis: Axis
    y_axis: Axis
    x_unit: str
    y_unit: str
    points: list[Point] = field(default_factory=list)


def draw(path: Path, record: Record) -> None:
    """Write the plots of a record: a page for ``.html``, one picture above the other for ``.png``."""
    plots = [p for g in record.groups if (p := _scatter(g.rows, noisy=g.noise.noisy))]
    if path.suffix.lower() == ".html":
        write_atomic(path, _page(record, plots))
        return
    from poster_edge.vision.confusion import write_png

    write_png(path, np.concatenate([_picture(p) for p in plots]))


def _scatter(rows: Sequence[Row], *, noisy: bool) -> Scatter | None:
    judged = [r for r in rows if r.answers is not None]
    if not judged:
        return None
    by_accuracy = all(r.answers and r.answers.accuracy is not None for r in judged)
    values = [_height(r, by_accuracy=by_accuracy) for r in judged]
    # Less than two points apart is no difference that a picture should blow up.
    room = max(1.0, 0.2 * (max(values) - min(values)))
    bounds = (max(0.0, min(values) - room), min(100.0, max(values) + room))
    # Upwards in the data is downwards in pixels.
    y_axis = linear_axis(bounds, _HEIGHT - _BOTTOM, _TOP)
    x_axis = _latency_axis([r.times.p50_ms for r in judged])
    what = "decoded frame to result" if judged[0].scope == "frame" else f"batch {judged[0].batch}"
    threads = f", {judged[0].threads} threads" if judged[0].threads else ""
    several = len({r.model for r in judged}) > 1
    scatter = Scatter(
        f"{'NOISY: ' if noisy else ''}{', '.join(dict.fromkeys(r.model for r in judged))}, {what}{threads}",
        x_axis,
        y_axis,
        "median latency in ms, logarithmic; area: size of the model's file",
        "accuracy in %" if by_accuracy else "same class as the baseline, in %",
    )
    runtimes = list(dict.fromkeys(r.runtime for r in judged))
    largest = max(r.file_mb for r in judged)
    ordered = sorted(zip(judged, values, strict=True), key=lambda item: -item[0].file_mb)
    circles = [
        (x_axis.at(r.times.p50_ms), y_axis.at(v), max(_SMALLEST, _RADIUS * math.sqrt(r.file_mb / largest)))
        for r, v in ordered
    ]
    taken = _Taken([(x - r, y - r, x + r, y + r) for x, y, r in circles])
    for (row, value), (x, y, radius) in zip(ordered, circles, strict=True):
        label = f"{row.model} {row.label}" if several else row.label
        told = f"{label}: {plain(row.times.p50_ms)} ms, {value:.2f} %, {row.file_mb:.1f} MB"
        place = _room_for(label, x, y, radius, taken)
        scatter.points.append(Point(x, y, radius, runtimes.index(row.runtime), label, place, told))
    return scatter


def _height(row: Row, *, by_accuracy: bool) -> float:
    assert row.answers is not None
    return 100 * (row.answers.accuracy if by_accuracy and row.answers.accuracy is not None else row.answers.agreement)


def _latency_axis(values: Sequence[float]) -> Axis:
    """A logarithmic axis with room on both sides, whose ticks are 1, 2 and 5 times a power of ten."""
    low, high = math.log10(min(values)) - 0.12, math.log10(max(values)) + 0.12
    if high - low < 0.5:
        low, high = (low + high) / 2 - 0.25, (low + high) / 2 + 0.25
    ticks = [float(f"{f}e{d}") for d in range(math.floor(low), math.ceil(high) + 1) for f in (1, 2, 5)]
    inside = tuple(t for t in ticks if low <= math.log10(t) <= high)
    return Axis(10**low, 10**high, _LEFT, _WIDTH - _RIGHT, inside, log=True)


_Box = tuple[float, float, float, float]


@dataclass
class _Taken:
    """Where something is drawn already: circles, labels, and the lines that lead to labels."""

    circles: list[_Box]
    labels: list[_Box] = field(default_factory=list)
    lines: list[_Box] = field(default_factory=list)


def _leader(label: str, x: float, y: float, radius: float, label_at: tuple[float, float]) -> tuple[float, float] | None:
    left, base = label_at
    right = left + _LETTER * len(label)
    end_x, end_y = min(max(x, left), right), min(max(y, base - 10), base + 3)
    far = math.hypot(end_x - x, end_y - y) - radius > _LINE / 2
    return (end_x, end_y) if far else None


def _room_for(label: str, x: float, y: float, radius: float, taken: _Taken) -> tuple[float, float]:
    """Where a label begins: beside, above or below its circle, or further off, wherever nothing is yet.

    A line that leads to it runs through no other label, and none through it, as long as there is such a place.
    """
    width = _LETTER * len(label)
    beside = (x + radius + 4, x - radius - 4 - width)
    sides = [(left, y + 4) for left in beside]
    for n in range(6):
        sides += [(x - width / 2, y - radius - 5 - n * _LINE), (x - width / 2, y + radius + 14 + n * _LINE)]
        sides += [(left, y + 4 + sign * (n + 1) * _LINE) for left in beside for sign in (1, -1)]
    fits = [
        p for p in sides if p[0] > _LEFT and p[0] + width < _WIDTH - 2 and _TOP < p[1] - 10 < _HEIGHT - _BOTTOM - 12
    ]

    def box(place: tuple[float, float]) -> _Box:
        return (place[0], place[1] - 11, place[0] + width, place[1] + 3)

    def clear(place: tuple[float, float]) -> bool:
        end = _leader(label, x, y, radius, place)
        own = any(_crosses((x, y, *end), other) for other in taken.labels) if end else False
        return not own and not any(_crosses(line, box(place)) for line in taken.lines)

    free = [p for p in fits if not any(_overlap(box(p), t) for t in (*taken.circles, *taken.labels))]
    place = next(filter(clear, free), (free or fits or sides)[0])
    taken.labels.append(box(place))
    if end := _leader(label, x, y, radius, place):
        taken.lines.append((x, y, *end))
    return place


def _crosses(line: _Box, box: _Box) -> bool:
    """Whether a line from (x1, y1) to (x2, y2) runs through a box, its end on the box's edge aside."""
    x1, y1, x2, y2 = line
    steps = 40
    points = ((x1 + (x2 - x1) * i / steps, y1 + (y2 - y1) * i / steps) for i in range(steps))
    return any(box[0] < px < box[2] and box[1] < py < box[3] for px, py in points)


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _svg(plot: Scatter) -> str:
    told = "; ".join(p.told for p in plot.points)
    drawing = Drawing.new(_WIDTH, _HEIGHT, f"{plot.title}. {told}")
    drawing.element.set("style", "max-width: none")
    bottom = _HEIGHT - _BOTTOM
    for mark in plot.x_axis.marks:
        x = plot.x_axis.at(mark)
        drawing.line(x, _TOP, x, bottom, "grid")
        drawing.text(x, bottom + 16, plain(mark), "tick", anchor="middle")
    for mark in plot.y_axis.marks:
        y = plot.y_axis.at(mark)
        drawing.line(_LEFT, y, _WIDTH - _RIGHT, y, "grid")
        drawing.text(_LEFT - 8, y + 4, f"{mark:g}", "tick", anchor="end")
    drawing.text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 38, plot.x_unit, "unit", anchor="middle")
    unit = drawing.add("text", "unit", x=0, y=0, transform=f"translate(16 {(_TOP + bottom) / 2:g}) rotate(-90)")
    unit.set("text-anchor", "middle")
    unit.text = plot.y_unit
    for point in plot.points:
        red, green, blue = _COLOURS[point.colour % len(_COLOURS)]
        part = drawing.group(point.told)
        circle = part.add("circle", cx=point.x, cy=point.y, r=point.radius)
        circle.set("style", f"fill: rgb({red} {green} {blue} / .45); stroke: rgb({red} {green} {blue})")
    for point in plot.points:
        if point.leader:
            drawing.line(point.x, point.y, *point.leader, "zero")
        drawing.text(*point.label_at, point.label, "name")
    return str(drawing)


def _page(record: Record, plots: Sequence[Scatter]) -> str:
    noise = "".join(f"<p><strong>NOISY:</strong> {escape(r)}</p>" for r in record.reasons)
    body = section("Latency against accuracy", [figures((figure(p.title, _svg(p)) for p in plots), "plots")])
    facts = f"<p>{escape(record.environment.device)}; {escape(record.environment.date)}</p>"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>poster-edge bench</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>poster-edge bench</h1>\n{facts}\n{noise}\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def _picture(plot: Scatter) -> NDArray[np.uint8]:
    """The plot as BGR pixels (h, w, 3)."""
    height = _HEIGHT + 34
    canvas = np.full((height * _PNG_SCALE, _WIDTH * _PNG_SCALE, 3), 255, np.uint8)
    pen = _Pen(canvas)
    bottom = _HEIGHT - _BOTTOM
    pen.text(_WIDTH - _RIGHT, 2, plot.title, anchor=1.0, size=1.15)
    for mark in plot.x_axis.marks:
        x = plot.x_axis.at(mark)
        pen.line(x, _TOP, x, bottom)
        pen.text(x, bottom + 18, plain(mark), anchor=0.5, soft=True)
    for mark in plot.y_axis.marks:
        y = plot.y_axis.at(mark)
        pen.line(_LEFT, y, _WIDTH - _RIGHT, y)
        pen.text(_LEFT - 8, y + 4, f"{mark:g}", anchor=1.0, soft=True)
    pen.text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 40, plot.x_unit, anchor=0.5, soft=True)
    pen.text(8, 2, plot.y_unit, soft=True)
    for point in plot.points:
        pen.circle(point)
    for point in plot.points:
        if point.leader:
            pen.line(point.x, point.y, *point.leader, ink=(158, 148, 139))
        pen.text(*point.label_at, point.label)
    return canvas


class _Pen:
    """Draws in the plot's own units, 34 of them below the picture's upper edge."""

    def __init__(self, canvas: NDArray[np.uint8]) -> None:
        self._canvas = canvas

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return round(x * _PNG_SCALE), round((y + 34) * _PNG_SCALE)

    def line(self, x1: float, y1: float, x2: float, y2: float, *, ink: tuple[int, int, int] = (218, 218, 213)) -> None:
        cv2.line(self._canvas, self._at(x1, y1), self._at(x2, y2), ink, 1, cv2.LINE_AA)

    def text(
        self, x: float, y: float, text: str, *, anchor: float = 0.0, soft: bool = False, size: float = 1.0
    ) -> None:
        font, scale = cv2.FONT_HERSHEY_DUPLEX, 0.4 * size * _PNG_SCALE
        # OpenCV's letters are of ASCII only.
        plain_text = text.encode("ascii", "replace").decode()
        (width, _), _ = cv2.getTextSize(plain_text, font, scale, 1)
        left, base = self._at(x, y)
        ink = (105, 96, 87) if soft else (35, 31, 27)
        cv2.putText(self._canvas, plain_text, (round(left - anchor * width), base), font, scale, ink, 1, cv2.LINE_AA)

    def circle(self, point: Point) -> None:
        red, green, blue = _COLOURS[point.colour % len(_COLOURS)]
        radius = round(point.radius * _PNG_SCALE)
        filled = self._canvas.copy()
        cv2.circle(filled, self._at(point.x, point.y), radius, (blue, green, red), -1, cv2.LINE_AA)
        cv2.addWeighted(filled, 0.45, self._canvas, 0.55, 0, self._canvas)
        cv2.circle(self._canvas, self._at(point.x, point.y), radius, (blue, green, red), 2, cv2.LINE_AA)
