"""Per frame: detect, crop, classify all faces in one batch, draw if asked; each stage is timed.

A frame can be done in two steps: :meth:`Pipeline.start` finds its faces and gives them to the runtime, and
:meth:`Pipeline.finish` takes the answer.  Where the runtime works by itself, the next frame is started
in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from poster_edge.config import Preprocess
from poster_edge.pipeline.continuity import Continuity
from poster_edge.pipeline.frame import Expression, FaceResult, Frame, FrameResult
from poster_edge.pipeline.steady import Steadier
from poster_edge.runtime.classifier import require_finite
from poster_edge.vision.align import crop_face, usable
from poster_edge.vision.draw import draw_faces
from poster_edge.vision.faces import Detector, Face, Image
from poster_edge.vision.follow import Follower

#: The stages in their order; each is a key of :attr:`FrameResult.latency_ms`, "track" only where faces are followed,
#: "draw" only if drawn.  "wait" is there only where the next frame was worked on meanwhile: what lay between giving
#: the faces to the runtime and having the answer, less "infer".  The sum is the time from capture to result either way.
STAGES = ("capture", "detect", "align", "preprocess", "infer", "wait", "track", "draw")
#: The same with more told apart, for a pipeline that is ``detailed``: decoding that "capture" holds otherwise,
#: copies to a GPU and back that "infer" holds (where the runtime can tell them), and what is left to do with the
#: network's answer.
DETAILED_STAGES = ("capture", "decode", "detect", "align", "preprocess", "copy", "infer", "post", "draw")

#: Makes the picture that is saved or shown from a result.
Painter = Callable[[FrameResult], Image]


class FacesUnderWay(Protocol):
    """What the pipeline needs of :class:`poster_edge.runtime.classifier.PendingFaces`."""

    preprocess_ms: float

    @property
    def infer_ms(self) -> float:
        """Time the network took by itself, in ms."""
        ...

    def result(self) -> NDArray[np.float64]:
        """Wait for the (N, C) probabilities."""
        ...


class OverlappingClassifier(Protocol):
    """A :class:`FaceClassifier` that can work while the next frame is prepared, where ``overlaps`` is true."""

    def submit(self, crops: Sequence[Image]) -> FacesUnderWay:
        """Begin what a call does."""
        ...


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


@dataclass(frozen=True)
class Started:
    """A frame whose faces were found and given to the runtime.

    Attributes:
        result: what is known so far.
        faces: that were found.
        continues: whether it shows the same scene as the frame before.
        rows: their (N, C) probabilities; empty while they are under way.
        under_way: the probabilities to come; None where they are there already.
        given: when the batch was made, by ``time.perf_counter``.
    """

    result: FrameResult
    faces: list[Face]
    continues: bool
    rows: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    under_way: FacesUnderWay | None = None
    given: float = 0.0


class Pipeline:
    """Turns frames into results.

    Attributes:
        overlaps: whether another frame may be started before one is finished.
    """

    def __init__(
        self,
        detector: Detector,
        classifier: FaceClassifier,
        *,
        painter: Painter | None = None,
        steadier: Steadier | None = None,
        follower: Follower | None = None,
        at_least: float = 0.0,
        detailed: bool = False,
    ) -> None:
        """Join the stages.

        Args:
            detector: finds the faces.
            classifier: names their expressions; its manifest says how they are cropped.
            painter: draws the result, where it is to be seen.
            steadier: numbers the faces of videos and averages their expressions.
            follower: finds the faces of videos in the detector's place.
            at_least: probability below which no expression is named.
            detailed: measure ``DETAILED_STAGES``; one frame after the other, so that they do not mix.
        """
        self._detector = detector
        self._classifier = classifier
        self._painter = painter
        self._steadier = steadier
        self._follower = follower
        self._continuity = Continuity()
        self._at_least = at_least
        self._detailed = detailed
        overlaps = getattr(classifier, "overlaps", False) and not detailed
        self._async = cast(OverlappingClassifier, classifier) if overlaps else None
        self.overlaps = self._async is not None

    def process(self, frame: Frame) -> FrameResult:
        """Find the faces of a frame and name their expressions."""
        return self.finish(self.start(frame))

    def start(self, frame: Frame) -> Started:
        """Find the faces of a frame and give them to the runtime.

        Args:
            frame: from the source; at most one other may be started and not finished.
        """
        result = FrameResult(frame, [], self._classifier.classes, {"capture": frame.capture_ms})
        result.runtime = self._classifier.runtime
        clock = result.latency_ms
        if self._detailed:
            clock.update(capture=frame.capture_ms - frame.decode_ms, decode=frame.decode_ms)
        with _timed(clock, "detect"):
            continues = bool(self._follower or self._steadier) and self._continuity.update(frame)
            if self._follower and frame.kind != "image":
                faces = self._follower.detect(frame.image, frame.time_s, continues=continues)
            else:
                faces = self._detector.detect(frame.image, fine=frame.kind == "image")
        with _timed(clock, "align"):
            faces = [f for f in faces if usable(f.box, frame.image)]
            crops = [crop_face(frame.image, f, self._classifier.preprocess) for f in faces]
        if not crops or self._async is None:
            return Started(result, faces, continues, rows=self._classify(crops, clock))
        began = time.perf_counter()
        under_way = self._async.submit(crops)
        clock["preprocess"] = under_way.preprocess_ms
        return Started(result, faces, continues, under_way=under_way, given=began + clock["preprocess"] / 1e3)

    def finish(self, started: Started, *, at_once: bool = True) -> FrameResult:
        """Take the runtime's answer and draw.

        Args:
            started: from :meth:`start`; frames are finished in the order in which they were started.
            at_once: nothing was done since then but waiting, so that all of it counts as "infer".

        Raises:
            UnavailableError: the network's answer is not finite.
        """
        result, clock = started.result, started.result.latency_ms
        rows = started.rows
        if started.under_way is not None:
            rows = started.under_way.result()
            whole = 1e3 * (time.perf_counter() - started.given)
            clock["infer"] = whole if at_once else min(whole, started.under_way.infer_ms)
            if not at_once:
                clock["wait"] = whole - clock["infer"]
        began = time.perf_counter()
        where = f"{result.frame.source}, frame {result.frame.index}"
        require_finite(rows, where=where, runtime=result.runtime)
        for face, row in zip(started.faces, rows, strict=True):
            result.faces.append(FaceResult(face, Expression.of(row, result.classes, at_least=self._at_least)))
        if self._detailed:
            clock["post"] = clock.get("post", 0.0) + 1e3 * (time.perf_counter() - began)
        if self._steadier and result.frame.kind != "image":
            with _timed(clock, "track"):
                self._steadier(result, continues=started.continues)
        if self._painter:
            with _timed(clock, "draw"):
                result.drawn = self._painter(result)
        return result

    def _classify(self, crops: Sequence[Image], clock: dict[str, float]) -> NDArray[np.float64]:
        if not crops:
            clock["preprocess"] = clock["infer"] = 0.0
            return np.empty((0, len(self._classifier.classes)))
        rows = self._classifier(crops)
        last = self._classifier.last_ms
        clock.update({stage: last.get(stage, 0.0) for stage in ("preprocess", "infer")})
        if self._detailed:
            copy_ms = last.get("copy", 0.0)
            clock.update(copy=copy_ms, infer=clock["infer"] - copy_ms, post=last.get("post", 0.0))
        return rows


@contextmanager
def _timed(clock: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    clock[stage] = (time.perf_counter() - start) * 1e3


def painter(*, blur: bool = False) -> Painter:
    """A painter that draws boxes, labels and bars, and blurs the faces if asked, those too that were just there."""

    def paint(result: FrameResult) -> Image:
        faces = [f.face for f in result.faces]
        shown = [f.shown for f in result.faces]
        rows, labels = [s.probabilities for s in shown], [s.label for s in shown]
        hidden = [*faces, *result.unseen] if blur else []
        return draw_faces(result.frame.image, faces, rows, result.classes, labels=labels, hidden=hidden)

    return paint
