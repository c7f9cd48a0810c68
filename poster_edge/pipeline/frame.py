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
class FaceResult:
    """A face, its label and the probabilities of all classes (C,)."""

    face: Face
    label: str
    probabilities: NDArray[np.float64]

    @property
    def probability(self) -> float:
        """Probability of the label, 0 to 1."""
        return float(self.probabilities.max())


@dataclass
class FrameResult:
    """All that is known about one frame.

    Attributes:
        frame: the picture.
        faces: one result per face, the largest first.
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


class Source(Protocol):
    """A sequence of frames.

    Attributes:
        inputs: files that are read, so that nothing overwrites them.
        live: a camera or stream without an end of its own.
    """

    inputs: list[str]
    live: bool

    def total(self) -> int | None:
        """Number of frames to come, where it is known before."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; ends what it opened when the iterator is closed."""
        ...
