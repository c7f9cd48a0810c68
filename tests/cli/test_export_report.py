"""The export's HTML page: whole, self-contained, escaped, and with every mark where its value is."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")

from poster_edge.calib.cache import from_histograms
from poster_edge.calib.gate import GateReport, Thresholds, judge
from poster_edge.calib.histogram import StreamingHistogram
from poster_edge.calib.ranges import METHODS
from poster_edge.calib.sensitivity import LayerError
from poster_edge.cli.export_report import FACE_PX, TOP_LAYERS, TOP_TENSORS, ReportData, write_report
from poster_edge.cli.report_plots import (
    BARS,
    Bar,
    Interval,
    Pair,
    bar_axis,
    bar_plot,
    downsampled,
    interval_plot,
    linear_axis,
    log_axis,
    pair_plot,
    range_plot,
    rounding_error,
    shortened,
    signed,
)
from poster_edge.errors import PosterEdgeError

CLASSES = ("angry", "happy", "sad")
VOID = {"meta", "img", "br"}
HOSTILE = "a<script>alert(1)</script>\"' onload=x &amp; \x00\x1b\udcff\u2028é"
#: The same text as a reader sees it: what has no place in a page is replaced.
SEEN = "a<script>alert(1)</script>\"' onload=x &amp; \ufffd\ufffd\ufffd\u2028é"


class Page(HTMLParser):
    """A parsed page; fails when a tag is not closed in turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is given twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"HTML has no self-closing {tag}"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    @property
    def svgs(self) -> list[ElementTree.Element]:
        return [ElementTree.fromstring(s) for s in re.findall("<svg.*?</svg>", self.source, re.DOTALL)]


def gate(*, noise: float = 0.02, labelled: bool = True, count: int = 300, **options: Any) -> GateReport:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    reference = rng.normal(0, 1, (count, 3)) + 2 * np.eye(3)[labels]
    candidate = reference + rng.normal(0, noise, reference.shape)
    options = {"precision": "int8", "file": "model.int8.onnx", "runtime": "onnxruntime", "data": "faces.npz"} | options
    return judge(reference, candidate, labels if labelled else None, CLASSES, **options)


@cache
def histogram(name: str = "x", seed: int = 0) -> StreamingHistogram:
    result = StreamingHistogram(name)
    result.update(np.random.default_rng(seed).laplace(0, 1 + seed, 20_000).astype(np.float32))
    return result


@cache
def twelve() -> tuple[dict[str, StreamingHistogram], dict[str, dict[str, float]]]:
    histograms = {f"tensor{i}": histogram(f"tensor{i}", i) for i in range(12)}
    return histograms, from_histograms(histograms)


def data_of(gates: list[GateReport], **changes: Any) -> ReportData:
    """A report with every part filled."""
    rng = np.random.default_rng(1)
    histograms, ranges = twelve()
    flips = gates[0].flips if gates else []
    data = ReportData(
        title="tiny: int8",
        facts={"graph": "sha256 0123", "calibration": "64 images"},
        gates=gates,
        sizes={"model.onnx": 4_000_000, "model.int8.onnx": 1_000_000},
        histograms=histograms,
        ranges=ranges,
        method="entropy",
        errors=[LayerError(f"node{i}", "conv", 0.1 * 0.9**i) for i in range(40)],
        restored=["node1", "node35"],
        faces=[rng.integers(0, 256, (24, 24), np.uint8) for _ in flips],
        flip_texts=[f"true: sad; fp32: sad 4{i}%; int8: angry 50%" for i in range(len(flips))],
        timings=[("fp32", 4.0, 5.0), ("int8", 2.0, 2.5)],
        warnings=["few images"],
    )
    return replace(data, **changes)


def page_of(folder: Path, data: ReportData) -> Page:
    return Page(write_report(folder, data))


def shown(root: ElementTree.Element, tag: str, style: str) -> list[ElementTree.Element]:
    return [e for e in root.iter(tag) if e.get("class") == style]


def number(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name])


def scale_of(root: ElementTree.Element, *, log: bool = False) -> tuple[float, float]:
    """Slope and offset from values to pixels, from nothing but the labels below the axis."""
    ticks = [t for t in shown(root, "text", "tick") if t.get("text-anchor") == "middle"]
    values = [float((t.text or "").replace("−", "-").removesuffix("%")) for t in ticks]
    pixels = [number(t, "x") for t in ticks]
    slope, offset = np.polyfit(np.log10(values) if log else values, pixels, 1)
    np.testing.assert_allclose(np.polyval((slope, offset), np.log10(values) if log else values), pixels, atol=0.1)
    return float(slope), float(offset)


def pixels(root: ElementTree.Element, values: Sequence[float]) -> list[float]:
    slope, offset = scale_of(root)
    return [slope * v + offset for v in values]


# The page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gates",
    [
        pytest.param([gate()], id="passed"),
        pytest.param([gate(noise=1.5)], id="failed"),
        pytest.param(
            [gate(labelled=False), gate(labelled=False, noise=1.5, file="model.int8.inputs.onnx")], id="agreement"
        ),
        pytest.param([], id="no gate"),
    ],
)
def test_page_is_whole_and_fetches_nothing(tmp_path: Path, gates: list[GateReport]) -> None:
    page = page_of(tmp_path, data_of(gates))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "base"}
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "xlink:href", "style"):
            assert (attributes.get(name) or "#").startswith(("data:image/png;base64,", "#")), (tag, attributes)
        assert tag != "img" or attributes["alt"]
    assert not re.search(r"://|url\(|@import", page.source)
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert {a["href"] for tag, a in page.tags if tag == "a"} <= {f"#{t}" for t in targets}
    assert page.svgs
    for svg in page.svgs:
        assert svg.get("role") == "img"
        assert svg[0].tag == "title"
        assert svg[0].text


def test_written_whole_and_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    path = write_report(folder, data_of([gate()]))
    assert path == folder / "index.html"
    write_report(folder, data_of([gate()], title="second"))
    assert "<h1>second</h1>" in path.read_text(encoding="utf-8")
    assert [p.name for p in folder.iterdir()] == ["index.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(PosterEdgeError, match="cannot write"):
        write_report(tmp_path / "file", data_of([gate()]))


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    report = replace(gate(noise=1.5, file=HOSTILE, runtime=HOSTILE, data=HOSTILE, precision=HOSTILE), reasons=[HOSTILE])
    histograms = {HOSTILE: histogram()}
    data = data_of(
        [report],
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        sizes={HOSTILE: 1},
        histograms=histograms,
        ranges=from_histograms(histograms),
        errors=[LayerError(HOSTILE, "conv", 0.1)],
        restored=[HOSTILE, HOSTILE + "2"],
        flip_texts=[HOSTILE for _ in report.flips],
        timings=[(HOSTILE, 1.0, 2.0)],
        warnings=[HOSTILE + "3"],
    )
    page = page_of(tmp_path, data)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    # title, heading, file, facts (2), reason, warning, tensor, restored; plots and captions come on top
    assert page.text.count(SEEN) >= 9
    assert all(SEEN.split(";")[0] in (a["alt"] or "") for tag, a in page.tags if tag == "img")
    titles = [svg.findtext("title") or "" for svg in page.svgs]
    assert sum(SEEN in t for t in titles) == len(titles) - 1  # the recall's names classes only


# The verdict --------------------------------------------------------------------------------------------------


def verdict(page: Page) -> str:
    """The text before the first section's heading."""
    return page.text.split(page.headings[0])[0]


def test_passed_is_said_in_words(tmp_path: Path) -> None:
    report = gate()
    assert report.passed
    text = verdict(page_of(tmp_path, data_of([report])))
    assert "Passed" in text
    assert "ailed" not in text
    assert report.reference
    assert f"Accuracy {report.reference['accuracy']:.1%} in float32" in text


@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "no labels"])
def test_every_reason_of_a_failure_is_said_first(tmp_path: Path, labelled: bool) -> None:
    report = gate(noise=1.5, labelled=labelled)
    assert len(report.reasons) >= 2
    page = page_of(tmp_path, data_of([gate(labelled=labelled), report], warnings=[]))
    text = verdict(page)
    assert "Failed" in text
    assert "1 of 2 models fail." in text
    for reason in report.reasons:
        assert reason in text
        assert page.text.count(reason) == 1
    assert "Warnings" not in page.headings


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    """The gate then has no metrics, and the page shows what there is."""
    logits = np.eye(3)[np.arange(30) % 3]
    broken = judge(logits, np.full_like(logits, np.nan), np.arange(30) % 3, CLASSES, precision="fp16", file="h.onnx")
    page = page_of(tmp_path, data_of([broken], faces=[], flip_texts=[]))
    assert "30 of 30 images give values that are not finite" in verdict(page)
    assert "100.0% of the images change class" in verdict(page)
    assert "Recall of each class" not in page.text


def test_without_a_gate_nothing_is_claimed(tmp_path: Path) -> None:
    page = page_of(tmp_path, data_of([]))
    assert "Not judged" in verdict(page)
    assert "What it costs" not in page.headings
    assert "Faces that changed class" not in page.headings


def test_empty_parts_are_left_out(tmp_path: Path) -> None:
    full = page_of(tmp_path, data_of([gate(noise=0.3)]))
    assert full.headings == [
        "What it costs",
        "What it gives",
        "Faces that changed class",
        "Error of each layer",
        "Ranges",
        "Facts",
        "Warnings",
    ]
    empty: dict[str, Any] = {"sizes": {}, "histograms": {}, "ranges": {}, "facts": {}}
    lists: dict[str, Any] = {n: [] for n in ("errors", "restored", "faces", "flip_texts", "timings", "warnings")}
    page = page_of(tmp_path, data_of([gate()], **empty, **lists))
    assert page.headings == ["What it costs"]
    assert "warning" not in page.text
    assert len(page.svgs) == 3  # accuracy, flips, recall


def test_restored_layers_are_named_wherever_they_rank(tmp_path: Path) -> None:
    page = page_of(tmp_path, data_of([gate()]))
    assert "the 30 worst of 40" in page.text
    assert "Also in float: node35" in page.text
    hollow = [e for svg in page.svgs for e in shown(svg, "rect", "bar hollow")]
    filled = [e for svg in page.svgs for e in shown(svg, "rect", "bar")]
    assert len(hollow) == 1
    assert len(filled) == TOP_LAYERS - 1 + 2 + 2  # layers, sizes, timings
    assert "9%, in float" in page.text
    alone = page_of(tmp_path, data_of([gate()], errors=[]))
    assert "In float: node1, node35" in alone.text


def test_ranges_shown_are_those_that_lose_most(tmp_path: Path) -> None:
    data = data_of([gate()])
    error = {n: rounding_error(h, data.ranges[n]["entropy"]) for n, h in data.histograms.items()}
    page = page_of(tmp_path, data)
    plots = [t for svg in page.svgs if (t := svg.findtext("title") or "").startswith("Magnitudes of ")]
    assert [t.removeprefix("Magnitudes of ").split(".")[0] for t in plots] == sorted(error, key=lambda n: -error[n])[
        :TOP_TENSORS
    ]
    nothing_but_zeros = StreamingHistogram("zero")
    nothing_but_zeros.update(np.zeros(5, np.float32))
    page = page_of(
        tmp_path,
        data_of([gate()], histograms={"zero": nothing_but_zeros}, ranges={"zero": dict.fromkeys(METHODS, 0.0)}),
    )
    assert "Ranges" not in page.headings


# Faces --------------------------------------------------------------------------------------------------------


def embedded(page: Page) -> list[np.ndarray]:
    sources = [a["src"] or "" for tag, a in page.tags if tag == "img"]
    raw = (base64.b64decode(s.removeprefix("data:image/png;base64,"), validate=True) for s in sources)
    return [cv2.imdecode(np.frombuffer(r, np.uint8), cv2.IMREAD_UNCHANGED) for r in raw]


def test_faces_are_the_crops_in_their_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    shapes: list[tuple[int, ...]] = [(48, 48), (30, 40, 3), (FACE_PX, 1)]
    crops = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    texts = ["true: sad; int8: happy 40%", "b", "c"]
    page = page_of(tmp_path, data_of([gate(noise=0.3)], faces=crops, flip_texts=texts))
    for crop, image in zip(crops, embedded(page), strict=True):
        np.testing.assert_array_equal(image, crop)
    assert [a["alt"] for tag, a in page.tags if tag == "img"] == [f"Face, {t}" for t in texts]
    assert "int8: happy 40%" in page.texts


def test_large_crops_are_reduced(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 1000, dtype=np.uint8), (500, 1))
    (image,) = embedded(page_of(tmp_path, data_of([gate(noise=0.3)], faces=[ramp], flip_texts=["x"])))
    assert image.shape == (FACE_PX // 2, FACE_PX)
    np.testing.assert_allclose(image[0], np.linspace(0, 255, FACE_PX), atol=2)


def test_how_many_faces_of_how_many(tmp_path: Path) -> None:
    report = gate(noise=1.5)
    flipped = round(report.flip_rate[0] * 300)
    assert flipped > 64 == len(report.flips)
    page = page_of(tmp_path, data_of([report]))
    assert f"64 of the {flipped} images that model.int8.onnx puts into another class, of 300" in page.text


# Marks stand where their values are ---------------------------------------------------------------------------


def test_accuracy_lost_on_the_page(tmp_path: Path) -> None:
    report = gate(noise=0.4, thresholds=Thresholds(accuracy_ratio=0.9))
    assert report.accuracy_drop
    assert report.reference
    (svg,) = [
        s for s in page_of(tmp_path, data_of([report])).svgs if (s.findtext("title") or "").startswith("Accuracy")
    ]
    drop, low, high = (100 * v for v in report.accuracy_drop)
    limit = 100 * 0.1 * report.reference["accuracy"]
    expected = pixels(svg, [drop, low, high, limit])
    (dot,), (line, *ends), (edge,) = (
        shown(svg, *w) for w in (("circle", "after"), ("line", "interval"), ("line", "limit"))
    )
    found = [number(dot, "cx"), number(line, "x1"), number(line, "x2"), number(edge, "x1")]
    np.testing.assert_allclose(found, expected, atol=0.2)
    np.testing.assert_allclose([number(e, "x1") for e in ends], expected[1:3], atol=0.2)
    (refused,) = shown(svg, "rect", "refused")
    assert number(refused, "x") == number(edge, "x1")


def test_recall_on_the_page(tmp_path: Path) -> None:
    report = gate(noise=0.8)
    assert report.reference
    assert report.candidate
    (svg,) = [s for s in page_of(tmp_path, data_of([report])).svgs if (s.findtext("title") or "").startswith("Recall")]
    for style, values in (("before", report.reference["recall"]), ("after", report.candidate["recall"])):
        dots = [number(e, "cx") for e in shown(svg, "circle", style)]
        np.testing.assert_allclose(dots, pixels(svg, [100 * v for v in values.values()]), atol=0.2)
    limits = [number(e, "x1") for e in shown(svg, "line", "limit")]
    least = [100 * (v - report.thresholds["class_drop"]) for v in report.reference["recall"].values()]
    np.testing.assert_allclose(limits, pixels(svg, least), atol=0.2)


def test_rows_share_one_axis_and_do_not_meet() -> None:
    rows = [Interval("a", "1", 1.0, -2.0, 3.0, 0.5), Interval("b", "7", 7.0, 6.0, 9.5, None)]
    svg = ElementTree.fromstring(interval_plot("t", "u", rows))
    dots = shown(svg, "circle", "after")
    np.testing.assert_allclose([number(d, "cx") for d in dots], pixels(svg, [1.0, 7.0]), atol=0.2)
    assert len(shown(svg, "line", "limit")) == 1
    assert number(dots[1], "cy") - number(dots[0], "cy") > 30
    view = [float(v) for v in (svg.get("viewBox") or "").split()]
    assert all(view[0] <= number(d, "cx") <= view[2] and view[1] <= number(d, "cy") <= view[3] for d in dots)


def test_pair_limit_below_the_scale_stays_on_it() -> None:
    svg = ElementTree.fromstring(pair_plot("t", "u", [Pair("a", "", 1.0, 0.0, -2.0)], bounds=(0.0, 100.0)))
    (limit,) = shown(svg, "line", "limit")
    assert number(limit, "x1") == pytest.approx(pixels(svg, [0.0])[0], abs=0.2)


@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
def test_bars_end_at_their_values(log: bool) -> None:
    values = [0.004, 0.02, 0.11]
    rows = [Bar(str(v), "", v, whisker=2 * v) for v in values]
    svg = ElementTree.fromstring(bar_plot("t", "u", rows, axis=bar_axis(rows, log=log)))
    slope, offset = scale_of(svg, log=log)
    ends = [number(b, "x") + number(b, "width") for b in shown(svg, "rect", "bar")]
    np.testing.assert_allclose(ends, [slope * (math.log10(v) if log else v) + offset for v in values], atol=0.3)
    whiskers = [number(e, "x2") for e in shown(svg, "line", "interval")[::2]]
    np.testing.assert_allclose(
        whiskers, [slope * (math.log10(2 * v) if log else 2 * v) + offset for v in values], atol=0.3
    )


def test_ranges_are_cut_where_the_methods_say() -> None:
    counted = histogram(seed=3)
    ranges = from_histograms({"x": counted})["x"]
    svg = ElementTree.fromstring(range_plot("t", counted, ranges, "mse"))
    (used,) = shown(svg, "line", "cut used")
    others = sorted(number(e, "x1") for e in shown(svg, "line", "cut"))
    assert number(used, "x1") == pytest.approx(pixels(svg, [ranges["mse"]])[0], abs=0.3)
    np.testing.assert_allclose(others, sorted(pixels(svg, [v for k, v in ranges.items() if k != "mse"])), atol=0.3)
    names = [t.text for t in svg.iter("text") if (t.get("class") or "").startswith("name")]
    assert sorted(n.split()[0] for n in names if n) == sorted(METHODS)
    (bold,) = shown(svg, "text", "name used")
    assert (bold.text or "").startswith("mse ")


def test_bars_of_a_histogram_hold_every_count() -> None:
    counted = histogram(seed=4)
    counts, end = downsampled(counted)
    assert len(counts) <= BARS
    assert counts.sum() == counted.total
    assert counted.maximum <= end <= counted.maximum + 2 * counted.limit / 64
    (path,) = ElementTree.fromstring(range_plot("t", counted, {"minmax": counted.maximum}, "minmax")).iter("path")
    heights = [float(y) for y in re.findall(r"V([\d.]+)H", path.attrib["d"])]
    base = float(path.attrib["d"].split("V")[-1].removesuffix("Z"))
    expected = np.log10(1 + counts)
    np.testing.assert_allclose((base - np.array(heights)) / (base - min(heights)), expected / expected.max(), atol=0.01)


# Numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_rounding_error_is_that_of_quantised_values(share: float) -> None:
    values = np.random.default_rng(5).laplace(0, 2, 200_000).astype(np.float32)
    counted = StreamingHistogram("x")
    counted.update(values)
    top = share * counted.maximum
    quantised = np.clip(np.rint(values / (top / 127)), -127, 127) * (top / 127)
    exact = float(np.sqrt(((values - quantised) ** 2).sum() / (values**2).sum()))
    assert rounding_error(counted, top) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(
    "values", [(0.0,), (-3.0, 8e6), (1e-15, 3e-15), (5.0, 5.0), (-2.0, -1.0), (0.0, math.nan, 1.0)]
)
def test_linear_axis_holds_its_values(values: tuple[float, ...]) -> None:
    axis = linear_axis(values, 10, 300)
    finite = [v for v in values if math.isfinite(v)]
    slack = 1e-5 * (axis.high - axis.low)
    assert axis.low - slack <= min(finite)
    assert max(finite) <= axis.high + slack
    assert 2 <= len(axis.marks) <= 7
    places = [axis.at(m) for m in axis.marks]
    assert (places[0], places[-1]) == (10, 300)
    assert min(np.diff(places)) > 30
    assert axis.at(math.nan) == axis.at(math.inf) == 300


@pytest.mark.parametrize("values", [(0.0,), (1e-3, 0.5), (1.0, 1.0), (0.0, math.inf, 1e-9, 2.0)])
def test_log_axis_is_bounded(values: tuple[float, ...]) -> None:
    axis = log_axis(values, 10, 300)
    usable = [v for v in values if 0 < v < math.inf]
    assert axis.high >= max(usable, default=0) > -1
    assert 10 <= axis.high / axis.low <= 1e4 * 1.001
    assert axis.at(0.0) == 10


def test_numbers_and_names_in_words() -> None:
    assert [signed(v) for v in (0.071, -0.53, -0.001, 0.0)] == ["+0.07", "−0.53", "0.00", "0.00"]
    assert shortened("model.onnx", 100) == "model.onnx"
    short = shortened("a_very_long_name_of_a_layer_conv2d_17", 100)
    assert len(short) <= 15
    assert short.startswith("a_very")
    assert short.endswith("2d_17")
