"""Following and averaging in the pipeline: videos, cuts, several sources, pictures that stand alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from poster_edge.config import Preprocess
from poster_edge.pipeline.frame import Frame, FrameResult, Kind
from poster_edge.pipeline.report import Tally, describe
from poster_edge.pipeline.stages import Pipeline, painter
from poster_edge.pipeline.steady import Steadier
from poster_edge.vision.faces import Face, Image, WholePicture

CLASSES = ("happy", "sad", "neutral")


class Scripted:
    """A classifier that gives rows from a list, one a face."""

    classes = CLASSES
    preprocess = Preprocess(size=16)
    runtime = "script"

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self._rows: Iterator[Sequence[float]] = iter(rows)
        self.last_ms: dict[str, float] = {}

    def __call__(self, crops: Sequence[Image]) -> NDArray[np.float64]:
        return np.array([next(self._rows) for _ in crops])


def frame(index: int, *, shade: int = 0, kind: Kind = "video", source: str = "a.mp4") -> Frame:
    """A frame at 25 a second; another shade is another scene."""
    image = np.random.default_rng(shade).integers(0, 256, (60, 80, 3), np.uint8)
    return Frame(index, index / 25, source, image, 1.0, kind, 25.0)


def run(
    frames: Sequence[Frame], rows: Sequence[Sequence[float]], steadier: Steadier, **more: object
) -> list[FrameResult]:
    pipeline = Pipeline(WholePicture(), Scripted(rows), steadier=steadier, **more)  # type: ignore[arg-type]
    return [pipeline.process(f) for f in frames]


def tracks(results: Sequence[FrameResult]) -> list[int | None]:
    return [r.faces[0].track for r in results]


FLICKER = [[0.5, 0.45, 0.05], [0.45, 0.5, 0.05]]


def test_the_shown_label_holds_while_the_frames_own_flickers() -> None:
    results = run([frame(i) for i in range(20)], FLICKER * 10, Steadier(0.5))
    assert [r.faces[0].now.label for r in results] == ["happy", "sad"] * 10
    assert {r.faces[0].shown.label for r in results} == {"happy"}
    assert tracks(results) == [1] * 20


def test_a_cut_is_another_face_and_begins_anew() -> None:
    rows = [[0.9, 0.05, 0.05]] * 5 + [[0.05, 0.9, 0.05]] * 5
    results = run([frame(i, shade=i // 5) for i in range(10)], rows, Steadier(10.0))
    assert tracks(results) == [1] * 5 + [2] * 5
    assert [r.faces[0].shown.label for r in results] == ["happy"] * 5 + ["sad"] * 5


def test_each_source_begins_anew_and_no_number_is_given_twice() -> None:
    frames = [frame(0), frame(1), frame(0, source="b.mp4"), frame(0, kind="image", source="c.jpg"), frame(0)]
    results = run(frames, [[0.9, 0.05, 0.05]] * 5, Steadier(0.5))
    assert tracks(results) == [1, 1, 2, None, 3]
    assert results[3].faces[0].steady is None
    assert "track" not in results[3].latency_ms
    tally = Tally()
    for result in results:
        tally.add(result)
    assert "5 faces, 3 tracks" in tally.headline()


def test_without_an_average_faces_are_followed_only() -> None:
    results = run([frame(i) for i in range(4)], FLICKER * 2, Steadier(0.0))
    assert tracks(results) == [1] * 4
    assert [r.faces[0].shown for r in results] == [r.faces[0].now for r in results]


def test_uncertain_is_shown_counted_and_drawn_and_probabilities_stay() -> None:
    frames = [frame(0, kind="image"), frame(0), frame(1)]
    rows = [[0.5, 0.45, 0.05], [0.5, 0.45, 0.05], [0.9, 0.05, 0.05]]
    results = run(frames, rows, Steadier(5.0, at_least=0.8), at_least=0.8, painter=painter())
    assert describe(results[0]).endswith(": 1 face: uncertain (0 0 80 60)")
    assert [r.faces[0].now.label for r in results] == [None, None, "happy"]
    # The geometric mean of the last two: 0.671 of 0.871.
    assert [r.faces[0].shown.label for r in results] == [None] * 3
    assert results[2].faces[0].shown.probability == pytest.approx(0.77, abs=0.005)
    assert results[0].faces[0].now.probabilities.tolist() == rows[0]
    tally = Tally()
    for result in results:
        tally.add(result)
    assert tally.labels == {"uncertain": 3}
    assert results[0].drawn is not None


def test_a_label_that_holds_gives_way_to_one_that_is_probable_enough() -> None:
    rows = [[0.6, 0.35, 0.05], *[[0.44, 0.52, 0.04]] * 40]
    results = run([frame(i) for i in range(41)], rows, Steadier(0.1, at_least=0.5), at_least=0.5)
    assert [results[i].faces[0].shown.label for i in (0, 40)] == ["happy", "sad"]


def test_a_label_that_holds_by_the_margin_tells_its_own_probability() -> None:
    rows = [[0.6, 0.35, 0.05], *[[0.45, 0.5, 0.05]] * 40]
    results = run([frame(i) for i in range(41)], rows, Steadier(0.1))
    shown = results[-1].faces[0].shown
    assert shown.label == "happy"
    assert shown.probability == pytest.approx(0.45, abs=0.005)


def test_blur_holds_where_the_detector_misses_a_face() -> None:
    class Misses(WholePicture):
        count = 0

        def detect(self, bgr: Image, *, fine: bool = False) -> list[Face]:
            self.count += 1
            return [] if self.count in (4, 5) else [Face((20.0, 10.0, 30.0, 40.0), 0.9)]

    steadier = Steadier(0.5)
    pipeline = Pipeline(Misses(), Scripted([[0.9, 0.05, 0.05]] * 10), steadier=steadier, painter=painter(blur=True))
    for index in range(10):
        result = pipeline.process(frame(index))
        assert result.drawn is not None
        changed = (result.drawn != result.frame.image).any(axis=2)
        assert changed[15:45, 25:45].mean() > 0.9, index
        assert len(result.unseen) == (index in (3, 4))


def test_faces_that_come_and_go() -> None:
    """What is kept is bounded by the faces of the last second, however long the run."""
    steadier = Steadier(0.5)
    pipeline = Pipeline(_Wandering(), Scripted([[0.9, 0.05, 0.05]] * 3000), steadier=steadier)
    for index in range(3000):
        pipeline.process(frame(index))
    assert steadier._smoother is not None
    assert len(steadier._smoother._known) <= 26
    assert len(steadier._tracker.waiting) <= 26


class _Wandering:
    """Finds each frame's face far from that of the frame before."""

    name = "wandering"

    def __init__(self) -> None:
        self._count = 0

    def detect(self, bgr: Image, *, fine: bool = False) -> list[Face]:
        self._count += 1
        return [Face((10.0 + 17 * (self._count % 4), 5.0 + 13 * (self._count % 3), 8.0, 8.0), 0.9)]
