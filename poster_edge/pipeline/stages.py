"""Per frame: detect, crop, classify all faces in one batch, draw if asked; each stage is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from poster_edge.config import Preprocess
from poster_edge.pipeline.frame import FaceResult, Frame, FrameResult
from poster_edge.vision.align import crop_face, usable
from poster_edge.vision.draw import draw_faces
from poster_edge.vision.faces import Detector, Image

#: The stages in their order; each is a key of :attr:`FrameResult.latency_ms`, "draw" only if drawn.
STAGES = ("capture", "detect", "align", "preprocess", "infer", "draw")

#: Makes the picture that is saved or shown from a result.
Painter = Callable[[FrameResult], Image]


class FaceClassifier(Protocol):
    """What the pipeline needs of :class:`poster_edge.runtime.classifier.Classifier`."""

    classes: tuple[str, ...]
    preprocess: Preprocess
    last_ms: dict[str, float]

    @property
    def runtime(self) -> str:
        """What really runs."""
        ...

    def __call__(self, crops: Sequence[Image]) -> NDArray[np.float64]:
        """Turn N crops into (N, C) probabilities."""
        ...


class Pipeline:
    """Turns frames into results."""

    def __init__(self, detector: Detector, classifier: FaceClassifier, *, painter: Painter | None = None) -> None:
        """Join the stages.

        Args:
            detector: finds the faces.
            classifier: names their expressions; its manifest says how they are cropped.
            painter: draws the result, where it is to be seen.
        """
        self._detector = detector
        self._classifier = classifier
        self._painter = painter

    def process(self, frame: Frame) -> FrameResult:
        """Find the faces of a frame and name their expressions."""
        result = FrameResult(frame, [], self._classifier.classes, {"capture": frame.capture_ms})
        result.runtime = self._classifier.runtime
        clock = result.latency_ms
        with _timed(clock, "detect"):
            faces = self._detector.detect(frame.image, fine=frame.kind == "image")
        with _timed(clock, "align"):
            faces = [f for f in faces if usable(f.box, frame.image)]
            crops = [crop_face(frame.image, f, self._classifier.preprocess) for f in faces]
        for face, row in zip(faces, self._classify(crops, clock), strict=True):
            result.faces.append(FaceResult(face, self._classifier.classes[int(row.argmax())], row))
        if self._painter:
            with _timed(clock, "draw"):
                result.drawn = self._painter(result)
        return result

    def _classify(self, crops: Sequence[Image], clock: dict[str, float]) -> NDArray[np.float64]:
        if not crops:
            clock["preprocess"] = clock["infer"] = 0.0
            return np.empty((0, len(self._classifier.classes)))
        rows = self._classifier(crops)
        clock.update({stage: self._classifier.last_ms.get(stage, 0.0) for stage in ("preprocess", "infer")})
        return rows


@contextmanager
def _timed(clock: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    clock[stage] = (time.perf_counter() - start) * 1e3


def painter(*, blur: bool = False) -> Painter:
    """A painter that draws boxes, labels and bars, and blurs the faces if asked."""

    def paint(result: FrameResult) -> Image:
        faces = [f.face for f in result.faces]
        rows = [f.probabilities for f in result.faces]
        return draw_faces(result.frame.image, faces, rows, result.classes, blur=blur)

    return paint
