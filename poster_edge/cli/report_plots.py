"""Plots as inline SVG that read from the page's style sheet, for :mod:`poster_edge.cli.export_report`.

Every plot is narrow and high: a phone shows it whole, a wide window shows several side by side.
A row has its name and its figures in one line and its marks in the line below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from poster_edge.calib.histogram import BINS, StreamingHistogram
from poster_edge.calib.ranges import LEVELS

#: Width of a plot of rows in its own units; a letter is about ``_LETTER`` wide and 12 high.
WIDTH = 360
_LETTER = 6.6
_MARGIN = 14
_ROW = 38
_LINE = 15
_TOP = 4
_FOOT = 38
#: A histogram is shown in at most this many bars, in a picture of this size.
BARS = 128
_RANGE_SIZE = (300, 210)
_CUT = 13
#: Decades that a logarithmic axis shows at most.
_DECADES = 4
# Characters that XML or UTF-8 has no place for: control characters, lone surrogates, non-characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """The text with what cannot stand in a page (file names may hold it) replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, a typographic minus, and no sign where it rounds to zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def plain(value: float) -> str:
    """A number in as few digits as its tick or range needs."""
    return f"{value:.3g}".replace("-", "−") if abs(value) < 1000 else f"{value:.0f}".replace("-", "−")


@dataclass(frozen=True)
class Axis:
    """A horizontal scale from values to pixels.

    Attributes:
        low, high: values at its ends.
        left, right: pixels of its ends.
        marks: values that get a tick.
        log: whether equal steps are equal factors.
    """

    low: float
    high: float
    left: float
    right: float
    marks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Pixel of a value; what lies beyond an end, or is not finite, stands at the end."""
        value = min(max(value, self.low), self.high) if math.isfinite(value) else self.high
        scale: Callable[[float], float] = math.log10 if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return round(self.left + share * (self.right - self.left), 2)


def linear_axis(
    values: Iterable[float], left: float, right: float, *, bounds: tuple[float, float] | None = None
) -> Axis:
    """An axis over all values that begins and ends at a tick, within ``bounds`` where given."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        high = low + (abs(low) or 1.0)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= 0.999 * rough)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    marks = [float(f"{i * step:.12g}") for i in range(first, last + 1)]
    if bounds:
        marks = [m for m in marks if bounds[0] <= m <= bounds[1]]
    return Axis(marks[0], marks[-1], left, right, tuple(marks))


def log_axis(values: Iterable[float], left: float, right: float) -> Axis:
    """A logarithmic axis from below the smallest to above the largest, four decades at most."""
    usable = [v for v in values if math.isfinite(v) and v > 0] or [1.0]
    top = math.ceil(math.log10(max(usable)) - 1e-9)
    bottom = max(math.floor(math.log10(min(usable)) - 0.1), top - _DECADES)
    decades = range(bottom, top + 1)
    factors = (1, 2, 5) if len(decades) <= 3 else (1,)
    marks = tuple(float(f"{f}e{d}") for d in decades for f in factors if d < top or f == 1)
    return Axis(10.0**bottom, 10.0**top, left, right, marks, log=True)


class Drawing:
    """An SVG picture, or a group in one, that marks are added to; well-formed by construction."""

    def __init__(self, element: ElementTree.Element) -> None:
        self.element = element

    @classmethod
    def new(cls, width: float, height: float, title: str) -> Drawing:
        """An empty picture; the title is what a screen reader says."""
        attributes = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "class": "plot"}
        drawing = cls(ElementTree.Element("svg", attributes))
        drawing.add("title").text = printable(title)
        return drawing

    def add(self, tag: str, style: str = "", **values: float | str) -> ElementTree.Element:
        """Add an element; ``style`` is its class in the style sheet."""
        texts = {k: v if isinstance(v, str) else f"{v:g}" for k, v in values.items()}
        return ElementTree.SubElement(self.element, tag, {**({"class": style} if style else {}), **texts})

    def group(self, title: str) -> Drawing:
        """A part with a title of its own, which a browser shows under the mouse."""
        part = Drawing(self.add("g"))
        part.add("title").text = printable(title)
        return part

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line."""
        self.add("line", style, x1=x1, y1=y1, x2=x2, y2=y2)

    def text(self, x: float, y: float, text: str, style: str = "", *, anchor: str = "start") -> None:
        """A line of text whose base begins, has its middle, or ends at a point."""
        element = self.add("text", style, x=x, y=y, **({} if anchor == "start" else {"text-anchor": anchor}))
        element.text = printable(text)

    def __str__(self) -> str:
        return ElementTree.tostring(self.element, encoding="unicode")


@dataclass(frozen=True)
class Interval:
    """A value with its interval and, where there is one, the limit that it must not pass."""

    label: str
    text: str
    value: float
    low: float
    high: float
    limit: float | None = None


@dataclass(frozen=True)
class Pair:
    """A value before and after, and the least that is accepted."""

    label: str
    text: str
    before: float
    after: float
    limit: float


@dataclass(frozen=True)
class Bar:
    """A bar from the axis' left end; ``whisker`` is a second, larger value, ``hollow`` one that no longer applies."""

    label: str
    text: str
    value: float
    whisker: float | None = None
    hollow: bool = False


def interval_plot(title: str, unit: str, rows: Sequence[Interval]) -> str:
    """Values with their intervals on a common axis; what a limit forbids is shaded."""
    values = [v for r in rows for v in (0.0, r.value, r.low, r.high, *([] if r.limit is None else [r.limit]))]
    axis = linear_axis(values, _MARGIN, WIDTH - _MARGIN)
    drawing, parts = _rows(title, unit, axis, [(r.label, r.text) for r in rows])
    for row, (part, y) in zip(rows, parts, strict=True):
        if row.limit is not None:
            x = axis.at(row.limit)
            part.add("rect", "refused", x=x, y=y - 8, width=axis.right - x, height=16)
            part.line(x, y - 8, x, y + 8, "limit")
        low, high = axis.at(row.low), axis.at(row.high)
        part.line(low, y, high, y, "interval")
        for end in (low, high):
            part.line(end, y - 4, end, y + 4, "interval")
        part.add("circle", "after", cx=axis.at(row.value), cy=y, r=4.5)
    return str(drawing)


def pair_plot(title: str, unit: str, rows: Sequence[Pair], *, bounds: tuple[float, float]) -> str:
    """Values before (rings) and after (dots) on a common axis, each with its limit."""
    axis = linear_axis(
        (v for r in rows for v in (r.before, r.after, max(r.limit, bounds[0]))), _MARGIN, WIDTH - _MARGIN, bounds=bounds
    )
    drawing, parts = _rows(title, unit, axis, [(r.label, r.text) for r in rows])
    for row, (part, y) in zip(rows, parts, strict=True):
        before, after, limit = axis.at(row.before), axis.at(row.after), axis.at(row.limit)
        part.add("rect", "refused", x=axis.left, y=y - 8, width=limit - axis.left, height=16)
        part.line(limit, y - 8, limit, y + 8, "limit")
        part.line(before, y, after, y, "interval")
        part.add("circle", "after", cx=after, cy=y, r=4.5)
        part.add("circle", "before", cx=before, cy=y, r=6)
    return str(drawing)


def bar_plot(title: str, unit: str, rows: Sequence[Bar], *, axis: Axis | None = None, percent: bool = False) -> str:
    """Horizontal bars on a common axis, from zero unless another axis is given."""
    if axis is None:
        axis = bar_axis(rows)
    drawing, parts = _rows(title, unit, axis, [(r.label, r.text) for r in rows], percent=percent)
    for row, (part, y) in zip(rows, parts, strict=True):
        end = axis.at(row.value)
        part.add("rect", "bar hollow" if row.hollow else "bar", x=axis.left, y=y - 5, width=end - axis.left, height=10)
        if row.whisker is not None:
            far = axis.at(row.whisker)
            part.line(end, y, far, y, "interval")
            part.line(far, y - 4, far, y + 4, "interval")
    return str(drawing)


def bar_axis(rows: Sequence[Bar], *, log: bool = False) -> Axis:
    """The axis that holds all of some bars, for plots that share it."""
    values = [v for r in rows for v in (r.value, r.whisker) if v is not None]
    left, right = _MARGIN, WIDTH - _MARGIN
    return log_axis(values, left, right) if log else linear_axis([0.0, *values], left, right)


def _rows(
    title: str, unit: str, axis: Axis, labels: Sequence[tuple[str, str]], *, percent: bool = False
) -> tuple[Drawing, list[tuple[Drawing, float]]]:
    """Axis, names and figures; returns the picture and, for each row, its group and its marks' middle."""
    room = axis.right - axis.left
    stacked = any(_LETTER * (len(label) + len(text) + 2) > room for label, text in labels)
    row = _ROW + _LINE * stacked
    bottom = _TOP + row * len(labels)
    told = "; ".join(f"{label}: {text}" for label, text in labels)
    drawing = Drawing.new(WIDTH, bottom + _FOOT, f"{title}. {told}")
    for mark in axis.marks:
        x = axis.at(mark)
        drawing.line(x, _TOP, x, bottom, "zero" if mark == 0 and axis.low < 0 else "grid")
        text = f"{plain(100 * mark)}%" if percent else plain(mark)
        drawing.text(x, bottom + 14, text, "tick", anchor="middle")
    drawing.text(WIDTH / 2, bottom + 31, unit, "unit", anchor="middle")
    parts = []
    for i, (label, text) in enumerate(labels):
        top = _TOP + row * i
        part = drawing.group(f"{label}: {text}")
        part.text(axis.left, top + 12, shortened(label, room), "name")
        # Names and figures that do not fit side by side stand one below the other, in all rows alike.
        part.text(axis.right, top + 12 + _LINE * stacked, text, "figure", anchor="end")
        parts.append((part, top + row - 12.0))
    return drawing, parts


def shortened(text: str, room: float) -> str:
    """A name without its middle where it is wider than ``room`` pixels; its ends tell most."""
    letters = max(4, int(room / _LETTER))
    if len(text) <= letters:
        return text
    tail = letters // 2
    return f"{text[: letters - tail - 1]}…{text[-tail:]}"


def rounding_error(histogram: StreamingHistogram, top: float) -> float:
    """Error of INT8 with a range: root of the squared error over the squared values, from the counts.

    Below half a step nothing is left of a value; above it a twelfth of the step's square is lost on
    the average, and beyond the range all that is clipped.
    """
    values, counts = histogram.centres, histogram.counts.astype(np.float64)
    power = float(counts @ values**2)
    if not power:
        return 0.0
    step = top / LEVELS
    lost = np.select([values > top, values < step / 2], [(values - top) ** 2, values**2], step * step / 12)
    return math.sqrt(float(counts @ lost) / power)


def downsampled(histogram: StreamingHistogram) -> tuple[NDArray[np.int64], float]:
    """Counts up to the last bin in use, in at most ``BARS`` bars, and the magnitude at their end."""
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    width = math.ceil(used / BARS)
    bars = math.ceil(used / width)
    # bins -> bars x width; what is added at the end lies beyond the last bin and is empty
    padded = np.zeros(bars * width, np.int64)
    padded[:used] = histogram.counts[:used]
    return padded.reshape(bars, width).sum(axis=1), bars * width * histogram.limit / BINS


def range_plot(title: str, histogram: StreamingHistogram, ranges: dict[str, float], method: str) -> str:
    """Counts of |x| on a logarithmic height, and a line where each method cuts; the one used stands out."""
    (width, height), left = _RANGE_SIZE, 34
    counts, end = downsampled(histogram)
    axis = linear_axis([0.0, end, *ranges.values()], left, width - _MARGIN)
    # A line of text for each, the largest on top: its letters then stand left of no line that is already drawn.
    cuts = sorted(ranges.items(), key=lambda item: -item[1])
    top, bottom = 8 + _CUT * len(cuts), height - _FOOT
    drawing = Drawing.new(width, height, f"{title}. {'; '.join(f'{name} {plain(value)}' for name, value in cuts)}")
    decades = math.log10(max(10, 1 + int(counts.max())))
    _count_axis(drawing, axis, decades, top, bottom)
    heights = bottom - np.log10(1 + counts) / decades * (bottom - top)
    edges = [axis.at(i * end / len(counts)) for i in range(len(counts) + 1)]
    drawing.add("path", "counts", d=_outline(heights, edges, bottom))
    for mark in axis.marks:
        drawing.text(axis.at(mark), bottom + 14, plain(mark), "tick", anchor="middle")
    drawing.text((left + width) / 2, bottom + 31, "magnitude |x|", "unit", anchor="middle")
    for name, value in sorted(cuts, key=lambda item: item[0] == method):
        y = 5 + _CUT * cuts.index((name, value))
        drawing.line(axis.at(value), y, axis.at(value), bottom, "cut used" if name == method else "cut")
    for i, (name, value) in enumerate(cuts):
        x, text = axis.at(value), f"{name} {plain(value)}"
        place = (x - 4, "end") if x - _LETTER * len(text) > left else (x + 4, "start")
        drawing.text(place[0], 14 + _CUT * i, text, "name used" if name == method else "name", anchor=place[1])
    return str(drawing)


def _count_axis(drawing: Drawing, axis: Axis, decades: float, top: float, bottom: float) -> None:
    drawing.text(2, top - 4, "count", "tick")
    every = max(1, round(decades / 4))
    for power in range(0, math.floor(decades) + 1, every):
        y = round(bottom - math.log10(1 + 10**power if power else 1) / decades * (bottom - top), 2)
        drawing.line(axis.left, y, axis.right, y, "grid")
        drawing.text(axis.left - 4, y + 4, "0" if not power else _thousands(10**power), "tick", anchor="end")


def _thousands(count: int) -> str:
    return next(
        (f"{count // size}{name}" for size, name in ((10**9, "G"), (10**6, "M"), (1000, "k")) if count >= size),
        str(count),
    )


def _outline(heights: NDArray[np.float64], edges: Sequence[float], bottom: float) -> str:
    steps = [f"V{y:.1f}H{x:g}" for y, x in zip(heights, edges[1:], strict=True)]
    return f"M{edges[0]:g} {bottom:g}{''.join(steps)}V{bottom:g}Z"
