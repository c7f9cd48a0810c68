"""Reads video files frame by frame and tells when one ends before its header says it should."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from poster_edge.errors import InputError
from poster_edge.pipeline.frame import Frame
from poster_edge.pipeline.images import as_bgr
from poster_edge.pipeline.quiet import hush_opencv
from poster_edge.pipeline.sources import Report

#: Assumed where a header gives no sensible rate.
DEFAULT_FPS = 25.0
_MOST_FPS = 1000.0
#: Play lists make FFmpeg open other files and addresses; a video file must hold its own pictures.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat")


def open_video(path: Path) -> cv2.VideoCapture:
    """Open a video file.

    Raises:
        InputError: missing, empty, a play list, or nothing that can be decoded.
    """
    hush_opencv()
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if not head:
        raise InputError(f"{path}: the file is empty")
    if head.startswith(_PLAYLISTS):
        raise InputError(f"{path}: a play list, not a video; give the videos themselves")
    # An absolute path cannot be taken for an address ("rtsp:…"), nor "%d" in it for a series of
    # images: that is another backend's.
    capture = cv2.VideoCapture(str(path.resolve()), _file_backend())
    if not capture.isOpened():
        raise InputError(f"{path}: cannot be opened as a video: damaged, truncated, or of an unknown format")
    return capture


def _file_backend() -> int:
    backends = set(cv2.videoio_registry.getStreamBackends())
    return next((b for b in (cv2.CAP_FFMPEG, cv2.CAP_GSTREAMER) if b in backends), cv2.CAP_ANY)


def frame_rate(capture: cv2.VideoCapture) -> float:
    """Frames per second by the header, or 25 where it holds nonsense."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if math.isfinite(fps) and 0 < fps <= _MOST_FPS else DEFAULT_FPS


def count_frames(path: Path, stride: int = 1) -> int | None:
    """Frames to expect by the header, or None where it does not say."""
    try:
        capture = open_video(path)
    except InputError:
        return 0
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return -(-count // stride) if count > 0 else None


def video_frames(path: Path, *, report: Report, stride: int = 1) -> Iterator[Frame]:
    """Yield a video's frames.

    Args:
        path: video file.
        report: told, once, when fewer frames could be read than the header says.
        stride: take every N-th frame; the others are not converted.

    Raises:
        InputError: the video cannot be opened, or has no frame that can be read.
    """
    capture = open_video(path)
    fps = frame_rate(capture)
    expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    index, last_s = 0, -1.0
    try:
        while True:
            start = time.perf_counter()
            if index % stride:
                if not capture.grab():
                    break
                index += 1
                continue
            good, image = capture.read()
            if not good or image is None:
                break
            capture_ms = (time.perf_counter() - start) * 1e3
            last_s = _time(capture, index / fps, last_s)
            # Of a video file OpenCV's one call reads next to nothing and decodes.
            picture = as_bgr(np.asarray(image, np.uint8))
            yield Frame(index, last_s, str(path), picture, capture_ms, "video", fps / stride, capture_ms)
            index += 1
    finally:
        capture.release()
    if index == 0:
        raise InputError(f"{path}: no frame of this video can be read: damaged or truncated")
    if _is_short(index, expected):
        report(f"{path}: truncated or damaged: only {index} of {expected} frames could be read")


def _time(capture: cv2.VideoCapture, nominal: float, last: float) -> float:
    """The frame's own time stamp where it makes sense (variable rates), else its nominal time, in s."""
    stamp = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3
    return stamp if math.isfinite(stamp) and stamp > last and stamp >= 0 else max(nominal, last)


def _is_short(read: int, expected: int) -> bool:
    # Some containers hold no count, and OpenCV's estimate from the duration is off by a little.
    return expected - read > max(2, expected // 100)
