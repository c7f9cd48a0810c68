"""One JSON line per frame, to a file or to standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.pipeline.frame import Expression, FaceResult, FrameResult


def as_record(result: FrameResult) -> dict[str, Any]:
    """A frame's result as plain values: boxes to 0.1 px, probabilities to 0.0001, times to 0.01 ms."""
    frame = result.frame
    return {
        "frame": frame.index,
        "time_s": round(frame.time_s, 3),
        "source": frame.source,
        "faces": [_face(f, result.classes) for f in result.faces],
        "latency_ms": {stage: round(ms, 2) for stage, ms in result.latency_ms.items()},
        "runtime": result.runtime,
    }


def _face(found: FaceResult, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "box": [round(v, 1) for v in found.face.box],
        "score": round(found.face.score, 4),
        "track": found.track,
        **_expression(found.now, classes),
        "steady": found.steady and _expression(found.steady, classes),
    }


def _expression(found: Expression, classes: tuple[str, ...]) -> dict[str, Any]:
    named = zip(classes, found.probabilities, strict=True)
    return {"label": found.label, "probabilities": {name: round(float(p), 4) for name, p in named}}


class JsonLines:
    """Sink that writes each result as it comes, one line at a time."""

    def __init__(self, target: str, *, inputs: Sequence[str] = ()) -> None:
        """Open the file, or standard output for "-".

        Args:
            target: path or "-".
            inputs: files being read, which are never overwritten.

        Raises:
            PosterEdgeError: the file cannot be written.
            UsageError: it is one of the inputs.
        """
        if target != "-" and Path(target).resolve() in {Path(p).resolve() for p in inputs}:
            raise UsageError(f"--jsonl {target}: would overwrite an input; give another place")
        self._target = target
        self._stream: TextIO = sys.stdout
        if target != "-":
            try:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                self._stream = Path(target).open("w", encoding="utf-8")  # noqa: SIM115 - closed by close()
            except OSError as error:
                raise PosterEdgeError(f"cannot write {target}: {error.strerror}") from error

    def write(self, result: FrameResult) -> None:
        """Write one line and flush it.

        Raises:
            PosterEdgeError: the disk is full.
        """
        line = json.dumps(as_record(result), ensure_ascii=False, allow_nan=False)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            where = "standard output" if self._target == "-" else self._target
            raise PosterEdgeError(f"cannot write {where}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file.

        Raises:
            PosterEdgeError: the disk is full.
        """
        if self._stream is not sys.stdout:
            try:
                self._stream.close()
            except OSError as error:
                raise PosterEdgeError(f"cannot write {self._target}: {error.strerror}") from error

    def abort(self) -> None:
        """Close the file; the lines written so far stay."""
        with suppress(PosterEdgeError):
            self.close()
