"""What a measuring process times: a model alone, or the pipeline from a decoded frame to its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from poster_edge.bench.candidates import COMPILED, TORCH, Candidate
from poster_edge.data.preprocess import to_input
from poster_edge.errors import InputError
from poster_edge.export.engine_plugin import open_plugin
from poster_edge.runtime.bundle import Bundle, load_bundle
from poster_edge.runtime.choose import make_runner
from poster_edge.runtime.classifier import Classifier
from poster_edge.runtime.runner import Runner


@dataclass(frozen=True)
class Frames:
    """Which frames are timed, and what finds the faces in them.

    Attributes:
        source: as ``run --source`` takes it, no camera.
        count: frames that are decoded before the timed part; they come in turns.
        detector: "auto", "yunet", "haar" or "none".
        detector_model: YuNet's file, "" for the default.
        conf: least score of a face.
    """

    source: str
    count: int = 32
    detector: str = "auto"
    detector_model: str = ""
    conf: float = 0.6


class Work(Protocol):
    """Something that can be called again and again; a context manager.

    Attributes:
        description: what really runs.
        file: of the bundle, or the checkpoint's.
        file_bytes: its size.
    """

    @property
    def description(self) -> str: ...

    @property
    def file(self) -> str: ...

    @property
    def file_bytes(self) -> int: ...

    def __enter__(self) -> Work: ...

    def __exit__(self, *exception: object) -> None: ...

    def call(self) -> object:
        """Do it once."""

    def logits(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Logits (N, C) of N crops, each (h, w, 3) BGR or (h, w) gray."""


def open_bundle(candidate: Candidate) -> Bundle:
    """The bundle that a candidate runs: PyTorch's is the checkpoint where one is given."""
    from poster_edge.runtime.checkpoint_bundle import checkpoint_bundle, load_bundle_or_checkpoint

    if candidate.runtime not in (TORCH, COMPILED):
        return load_bundle(candidate.model)
    if candidate.checkpoint:
        return checkpoint_bundle(Path(candidate.checkpoint))
    return load_bundle_or_checkpoint(candidate.model, runtime=TORCH)


class ModelWork:
    """A batch of images to logits, nothing else; see :class:`Work`."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate, self._bundle = candidate, open_bundle(candidate)
        self._runner = _runner(candidate, self._bundle)

    def __enter__(self) -> ModelWork:
        self._runner.__enter__()
        manifest, size = self._bundle.manifest, self._bundle.manifest.preprocess.size
        images = np.random.default_rng(0).normal(0, 0.5, (self.candidate.batch, 3, size, size))
        self._feed = {manifest.input_name: images.astype(np.float32)}
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.__exit__(None, None, None)

    @property
    def description(self) -> str:
        """What really runs."""
        return self._runner.description

    @property
    def file(self) -> str:
        """Of the bundle that runs."""
        return self._runner.file

    @property
    def file_bytes(self) -> int:
        """Its size."""
        return self._bundle.manifest.artefacts[self.file].bytes

    def call(self) -> object:
        """Execute the model once."""
        return self._runner.infer(self._feed)

    def logits(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Logits (N, C) of N crops."""
        manifest = self._bundle.manifest
        images = to_input(crops, manifest.preprocess)
        if self.candidate.runtime != COMPILED:
            return np.asarray(self._runner.infer({manifest.input_name: images})[manifest.output_name], np.float32)
        # What is compiled takes the batch that is timed; the last one is filled up.
        size, parts = self.candidate.batch, []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            full = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            parts.append(self._runner.infer({manifest.input_name: full})[manifest.output_name][: len(part)])
        return np.concatenate(parts)


class FrameWork:
    """Detect, crop, preprocess, infer: what ``run`` does with a frame once it is decoded; see :class:`Work`."""

    def __init__(self, candidate: Candidate, frames: Frames) -> None:
        # Imported here: what times a model alone needs no OpenCV, whose memory would count as the model's.
        from poster_edge.pipeline.stages import Pipeline
        from poster_edge.vision.detect import choose_detector

        bundle = open_bundle(candidate)
        self._classifier = Classifier(
            bundle,
            runtime=candidate.runtime,
            precision=candidate.precision,
            device=candidate.device,
            threads=candidate.threads,
            plugin=Path(candidate.plugin) if candidate.plugin else None,
            kernels=candidate.kernels if candidate.runtime == TORCH else None,
        )
        model = Path(frames.detector_model) if frames.detector_model else None
        detector = choose_detector(frames.detector, model, conf=frames.conf)
        self._pipeline = Pipeline(detector, self._classifier)
        self._detector = detector.name
        self._frames = _decode(frames)
        self._next, self._bundle = 0, bundle
        self._stages: list[dict[str, float]] = []
        self._faces = 0

    def __enter__(self) -> FrameWork:
        self._classifier.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._classifier.__exit__(None, None, None)

    @property
    def description(self) -> str:
        """What really runs."""
        return f"{self._detector} + {self._classifier.runtime}"

    @property
    def file(self) -> str:
        """Of the bundle that runs."""
        return self._classifier.file

    @property
    def file_bytes(self) -> int:
        """Its size."""
        return self._bundle.manifest.artefacts[self.file].bytes

    def call(self) -> object:
        """The next frame."""
        frame = self._frames[self._next % len(self._frames)]
        self._next += 1
        result = self._pipeline.process(frame)
        self._stages.append({k: v for k, v in result.latency_ms.items() if k != "capture"})
        self._faces += len(result.faces)
        return result

    def logits(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Logits (N, C) of N crops."""
        return self._classifier.logits(crops)

    def stages(self) -> dict[str, float]:
        """Median ms of each stage over all calls, and "faces": mean number in a frame."""
        names = self._stages[-1] if self._stages else {}
        medians = {n: float(np.median([s[n] for s in self._stages])) for n in names}
        return {**medians, "faces": self._faces / max(1, self._next)}


def _runner(candidate: Candidate, bundle: Bundle) -> Runner:
    if candidate.runtime == COMPILED:
        from poster_edge.bench.compiled import CompiledRunner

        return CompiledRunner(
            bundle,
            precision=candidate.precision,
            device=candidate.device,
            threads=candidate.threads,
        )
    return make_runner(
        bundle,
        runtime=candidate.runtime,
        precision=candidate.precision,
        device=candidate.device,
        threads=candidate.threads,
        plugin=open_plugin(Path(candidate.plugin)) if candidate.plugin else None,
        kernels=candidate.kernels if candidate.runtime == TORCH else None,
    )


def _decode(frames: Frames) -> list[Any]:
    from poster_edge.pipeline.sources import open_source

    problems: list[str] = []
    source = open_source(frames.source, report=problems.append, notify=problems.append)
    if source.live:
        raise InputError(f"--source {frames.source}: a camera shows each candidate something else; give a file")
    iterator = iter(source)
    found = list(islice(iterator, frames.count))
    iterator.close()  # type: ignore[attr-defined]
    if not found:
        raise InputError(
            f"--source {frames.source}: no frame could be read{': ' if problems else ''}{'; '.join(problems)}"
        )
    return found
