"""Plots of ``poster-edge profile`` as inline SVG: the bar of the stages, and a roofline with its layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from poster_edge.bench.devices import Device
from poster_edge.bench.layers import Layer
from poster_edge.bench.profiling import StageProfile
from poster_edge.cli.report_plots import Axis, Drawing, plain, shortened

#: Size of the stages' bar and of the roofline, in their own units; a letter is about ``_LETTER`` wide.
_BAR_SIZE = (560, 74)
_ROOF_SIZE = (520, 340)
_LETTER = 6.6
_MARGIN, _HEAD = 46, 24
#: Decades that the roofline shows below its roof.
_DEEP = 4
#: Layers that get their name beside the mark, where there is room for it.
_NAMED = 12


def stage_bar(found: StageProfile) -> str:
    """One bar whose parts are as wide as their share of a frame."""
    width, height = _BAR_SIZE
    told = "; ".join(f"{s.name} {s.median_ms:.2f} ms, {s.share:.0%}" for s in found.stages)
    drawing = Drawing.new(width, height, f"Time of a frame. {told}")
    x = 0.0
    for stage in found.stages:
        wide = width * stage.share
        part = drawing.group(f"{stage.name}: median {stage.median_ms:.3f} ms, {stage.share:.1%} of the time")
        part.add("rect", f"stage {stage.name}", x=round(x, 2), y=4, width=round(wide, 2), height=34)
        for line, text in enumerate((stage.name, f"{stage.median_ms:.2f} ms")):
            if _LETTER * len(text) + 10 < wide:
                part.text(x + 4, 52 + 15 * line, text, "name" if line == 0 else "figure")
        x += wide
    return str(drawing)


def roofline(layers: Sequence[Layer], device: Device) -> str:
    """Operations a second against operations a byte, both logarithmic; the roof is the device's.

    Args:
        layers: those without products are left out: their operations are not counted.
        device: whose FP32 and INT8 rates and bandwidth make the roof.
    """
    shown = [layer for layer in layers if layer.cost.total_flops and layer.ms and layer.cost.bytes]
    width, height = _ROOF_SIZE
    drawing = Drawing.new(width, height, f"Roofline of {device.name}, {len(shown)} layers with products")
    across, up = _axes(shown, device)
    _grid(drawing, across, up)
    precisions = sorted({p for layer in shown for p in layer.cost.flops}) or ["fp32"]
    for precision in precisions:
        _roof(drawing, across, up, device, precision)
    _slope_label(drawing, across, up, device, min(device.rate(p) for p in precisions) / 1e9)
    longest = max((layer.ms for layer in shown), default=1.0)
    ranked = sorted(shown, key=lambda layer: -layer.ms)
    written: list[tuple[float, float]] = []
    for rank, layer in enumerate(ranked):
        x, y = across.at(_intensity(layer)), up.at(layer.gflops)
        part = drawing.group(
            f"{layer.name} ({layer.kind}): {layer.ms:.3f} ms, {layer.gflops:.1f} GFLOP/s, "
            f"{_intensity(layer):.1f} FLOP a byte, {layer.share(device):.0%} of the roofline"
        )
        # The area of a mark is the layer's time.
        part.add("circle", "layer", cx=x, cy=y, r=round(2 + 7 * math.sqrt(layer.ms / longest), 2))
        free = all(abs(y - other) > 12 or abs(x - across_) > 150 for across_, other in written)
        if rank < _NAMED and free:
            written.append((x, y))
            left = x > width * 0.7
            name = shortened(layer.name, 140)
            part.text(x + (-12 if left else 12), y + 4, name, "tick", anchor="end" if left else "start")
    return str(drawing)


def _intensity(layer: Layer) -> float:
    """Operations for each byte that has to be moved."""
    return layer.cost.total_flops / layer.cost.bytes


def _axes(layers: Sequence[Layer], device: Device) -> tuple[Axis, Axis]:
    width, height = _ROOF_SIZE
    ridge = device.rate("fp32") / (1e9 * device.bandwidth.value)
    across = _decades([ridge, *map(_intensity, layers)], _MARGIN, width - 14)
    rates = [layer.gflops for layer in layers]
    top = max([device.rate(p) / 1e9 for layer in layers for p in layer.cost.flops] or [device.rate("fp32") / 1e9])
    low = max(min(rates, default=top), top / 10**_DEEP)
    # An axis runs from left to right; of this one the left end is the picture's bottom.
    return across, _decades([low, top], height - 40, _HEAD)


def _decades(values: Sequence[float], left: float, right: float) -> Axis:
    bottom = math.floor(math.log10(min(values)) - 0.05)
    top = max(math.ceil(math.log10(max(values)) + 0.05), bottom + 1)
    marks = tuple(10.0**d for d in range(bottom, top + 1))
    return Axis(10.0**bottom, 10.0**top, left, right, marks, log=True)


def _grid(drawing: Drawing, across: Axis, up: Axis) -> None:
    for mark in across.marks:
        drawing.line(across.at(mark), up.right, across.at(mark), up.left, "grid")
        drawing.text(across.at(mark), up.left + 14, plain(mark), "tick", anchor="middle")
    for mark in up.marks:
        drawing.line(across.left, up.at(mark), across.right, up.at(mark), "grid")
        drawing.text(across.left - 4, up.at(mark) + 4, plain(mark), "tick", anchor="end")
    drawing.text((across.left + across.right) / 2, up.left + 31, "FLOP a byte", "unit", anchor="middle")
    drawing.text(2, 12, "GFLOP/s", "unit")


def _roof(drawing: Drawing, across: Axis, up: Axis, device: Device, precision: str) -> None:
    """The slope of the memory and the flat top of the arithmetic."""
    rate, bandwidth = device.rate(precision) / 1e9, device.bandwidth.value
    ridge = rate / bandwidth
    start = max(across.low, up.low / bandwidth)
    points = [(start, start * bandwidth), (min(max(ridge, start), across.high), rate), (across.high, rate)]
    for (x1, y1), (x2, y2) in pairwise(points):
        drawing.line(across.at(x1), up.at(y1), across.at(x2), up.at(y2), "limit")
    drawing.text(across.right - 4, up.at(rate) - 5, f"{precision} {plain(rate)} GFLOP/s", "used", anchor="end")


def _slope_label(drawing: Drawing, across: Axis, up: Axis, device: Device, rate: float) -> None:
    """The bandwidth, halfway up to where the lowest roof begins."""
    bandwidth = device.bandwidth.value
    middle = (max(across.low, up.low / bandwidth) * rate / bandwidth) ** 0.5
    drawing.text(across.at(middle) - 6, up.at(middle * bandwidth) - 6, f"{plain(bandwidth)} GB/s", "used", anchor="end")
