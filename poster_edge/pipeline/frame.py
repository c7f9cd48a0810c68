"""What a source yields and what the pipeline makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from poster_edge.vision.faces import Face, Image

Kind = Literal["image", "video", "live"]


@dataclass(frozen=True)
class Frame:
    """One picture from a source.

    Attributes:
        index: number of the picture within its source, 0 first; skipped ones are counted.
        time_s: seconds since the start of the video or the first live picture; 0 for images.
        source: file, device or address it came from, passwords masked.
        image: (h, w, 3) BGR.
        capture_ms: time spent reading and decoding it.
        decode_ms: the part of it known to be decoding.
        kind: "image", "video" or "live".
        fps: pictures per second of a video, after skipping; 0 for images.
    """

    index: int
    time_s: float
    source: str
    image: Image
    capture_ms: float
    kind: Kind = "image"
    fps: float = 0.0
    decode_ms: float = 0.0


@dataclass(frozen=True)
class Expression:
    """What the network makes of a face.

    Attributes:
        label: a class, or None where none is probable enough to be named.
        probability: of the label, or of the class that is not named; 0 to 1.
        probabilities: of all classes, (C,).
    """

    label: str | None
    probability: float
    probabilities: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.float64],
        classes: tuple[str, ...],
        *,
        index: int | None = None,
        at_least: float = 0.0,
    ) -> Expression:
        """Name the most probable class.

        Args:
            probabilities: of all classes, (C,).
            classes: C names.
            index: name this class instead.
            at_least: name none that is less probable.
        """
        index = int(probabilities.argmax()) if index is None else index
        probability = float(probabilities[index])
        return cls(classes[index] if probability >= at_least else None, probability, probabilities)


@dataclass(frozen=True)
class FaceResult:
    """A face and its expression.

    Attributes:
        face: where it is.
        now: its expression by this picture alone.
        track: its number in a video, the same as long as it is seen; None in a picture that stands alone.
        steady: its expression over the last moments of a video; None where nothing is averaged.
    """

    face: Face
    now: Expression
    track: int | None = None
    steady: Expression | None = None

    @property
    def shown(self) -> Expression:
        """The expression that is drawn, printed and counted."""
        return self.steady or self.now


@dataclass
class FrameResult:
    """All that is known about one frame.

    Attributes:
        frame: the picture.
        faces: one result per face, the largest first.
        unseen: where faces of a video are expected that were found a moment ago and not in this frame.
        classes: names of the C classes.
        latency_ms: stage -> milliseconds, in the order of the stages.
        drawn: the annotated picture, where one was asked for.
        runtime: what really ran the model.
    """

    frame: Frame
    faces: list[FaceResult]
    classes: tuple[str, ...]
    latency_ms: dict[str, float] = field(default_factory=dict)
    drawn: Image | None = None
    runtime: str = ""
    unseen: list[Face] = field(default_factory=list)


class Source(Protocol):
    """A sequence of frames.

    One whose frames come when they come has ``ready()`` too: whether the next one is there.

    Attributes:
        inputs: files that are read, so that nothing overwrites them.
        live: a camera or stream without an end of its own.
        moving: whether there is a video, camera or stream in it, whose pictures follow one another.
    """

    inputs: list[str]
    live: bool
    moving: bool

    def total(self) -> int | None:
        """Number of frames to come, where it is known before."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; ends what it opened when the iterator is closed."""
        ...
