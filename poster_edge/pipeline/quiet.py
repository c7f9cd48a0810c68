"""Keeps the chatter of OpenCV, FFmpeg, libjpeg and libpng off the user's terminal.

OpenCV's and FFmpeg's logs can be turned off, but libjpeg, libpng and drivers write to the process's
standard error without asking.  A command therefore parks that descriptor while it works; its own
messages go on through a copy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Set one of these to see what OpenCV and FFmpeg say.
VARIABLES = ("OPENCV_LOG_LEVEL", "OPENCV_FFMPEG_LOGLEVEL")


def hush_opencv() -> None:
    """Turn off the logs of OpenCV and its FFmpeg, unless the user has set a level."""
    if any(v in os.environ for v in VARIABLES):
        return
    import cv2

    # Read by OpenCV's FFmpeg backend when it opens its first video; -8 is FFmpeg's AV_LOG_QUIET.
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    with suppress(AttributeError):
        # Missing from OpenCV's typing stubs.
        getattr(cv2, "setLogLevel")(0)  # noqa: B009


@contextmanager
def natives_silenced() -> Iterator[None]:
    """Within the block only Python's own ``sys.stderr`` reaches the user's standard error."""
    if any(os.environ.get(v, "-8") != "-8" for v in VARIABLES):
        yield
        return
    hush_opencv()
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):
        yield
        return
    python = sys.stderr
    copy = os.fdopen(os.dup(kept), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        # Where sys.stderr is not the real one (a test's buffer) it stays in place.
        if _is_standard_error(python):
            sys.stderr = copy
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        sys.stderr = python
        for handle in (kept, nowhere):
            os.close(handle)
        with suppress(OSError):
            copy.close()


def _is_standard_error(stream: object) -> bool:
    try:
        return int(stream.fileno()) == 2  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
