"""Writes one video to a temporary name, checks that it is whole, and gives it its own name."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from poster_edge.errors import PosterEdgeError
from poster_edge.files import sweep, sync_folder, temporary_name
from poster_edge.pipeline.frame import Frame
from poster_edge.vision.faces import Image

#: File suffix -> FourCC; encoders that OpenCV's own FFmpeg has everywhere.
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}

#: Cameras' pictures come when they come; the file has this many a second.
_LIVE_FPS = 25.0
#: A gap in a camera's pictures longer than this is cut short in the file (s).
_LONGEST_GAP_S = 2.0
_CHECK_EVERY = 50
_LEAST_FREE_BYTES = 16 << 20


class VideoWriter:
    """One video file in the making."""

    def __init__(self, path: Path, first: Frame) -> None:
        """Open the encoder.

        Args:
            path: where the video goes; its suffix chooses container and codec.
            first: the first frame, whose size and rate the video takes.

        Raises:
            PosterEdgeError: the folder cannot be written, or there is no such encoder.
        """
        self._path = path
        self._size = (first.image.shape[1], first.image.shape[0])
        self._live = first.kind == "live"
        self._fps = _LIVE_FPS if self._live else first.fps
        self._start_s = first.time_s
        self._count = 0
        self._temporary = temporary_name(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent)
            self._temporary.touch()
        except OSError as error:
            raise PosterEdgeError(f"cannot write {path}: {error.strerror}") from error
        code = CODECS[path.suffix.lower()]
        # OpenCV's typing stubs name this function on some versions only.
        fourcc = cv2.VideoWriter.fourcc(*code)
        self._writer = cv2.VideoWriter(str(self._temporary), fourcc, self._fps, self._size)
        if not self._writer.isOpened():
            self.abort()
            raise PosterEdgeError(f"cannot write {path}: this OpenCV has no {code} encoder; try a path ending in .avi")

    def write(self, frame: Frame, drawn: Image) -> None:
        """Append one picture; a live one is repeated as often as its time asks for.

        Raises:
            PosterEdgeError: the disk is full.
        """
        picture = drawn if (drawn.shape[1], drawn.shape[0]) == self._size else _fitted(drawn, self._size)
        for _ in range(self._repeats(frame)):
            if self._count % _CHECK_EVERY == 0 and shutil.disk_usage(self._path.parent).free < _LEAST_FREE_BYTES:
                raise PosterEdgeError(f"cannot write {self._path}: the disk is full")
            self._writer.write(picture)
            self._count += 1

    def _repeats(self, frame: Frame) -> int:
        if not self._live:
            return 1
        due = int((frame.time_s - self._start_s) * self._fps) + 1
        if due - self._count > _LONGEST_GAP_S * self._fps:
            self._start_s = frame.time_s - self._count / self._fps
            return 1
        return max(0, due - self._count)

    def close(self) -> None:
        """Finish the file, check it and give it its name.

        Raises:
            PosterEdgeError: it could not be written in full.
        """
        self._writer.release()
        try:
            found = _count_frames(self._temporary)
            if found < self._count:
                raise PosterEdgeError(
                    f"cannot write {self._path}: only {found} of {self._count} frames are in the file; "
                    "is the disk full?"
                )
            with self._temporary.open("rb+") as file:
                os.fsync(file.fileno())
            self._temporary.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise PosterEdgeError(f"cannot write {self._path}: {error.strerror}") from error
        finally:
            self._unlink()

    def abort(self) -> None:
        """Throw the file away."""
        self._writer.release()
        self._unlink()

    def _unlink(self) -> None:
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _count_frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return count


def _fitted(picture: Image, size: tuple[int, int]) -> Image:
    """The picture scaled into a frame of another size, on black."""
    width, height = size
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    out = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    out[top : top + inner[1], left : left + inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return out
