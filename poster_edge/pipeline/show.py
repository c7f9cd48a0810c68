"""Shows the drawn pictures in a window."""

from __future__ import annotations

import os
import re
import sys

import cv2

from poster_edge.errors import UnavailableError
from poster_edge.pipeline.frame import FrameResult

_TITLE = "poster-edge (q ends)"
_QUIT = {ord("q"), ord("Q"), 27}
_IMAGE_WAIT_MS = 0


class StopRequested(Exception):  # noqa: N818 - no error
    """The user closed the window or pressed q."""


class Window:
    """Sink that shows each picture; an image stays until a key is pressed."""

    def __init__(self) -> None:
        """Check that a window can be opened.

        Raises:
            UnavailableError: OpenCV was built without windows, or there is no display.
        """
        if re.search(r"GUI:\s*NONE", cv2.getBuildInformation()):
            raise UnavailableError(
                "--show needs a window, which this OpenCV cannot open (opencv-python-headless): use --save, "
                "or replace it: pip uninstall opencv-python-headless; pip install opencv-python"
            )
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UnavailableError("--show needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set: use --save")

    def write(self, result: FrameResult) -> None:
        """Show one picture.

        Raises:
            StopRequested: the user wants to end.
        """
        assert result.drawn is not None
        cv2.imshow(_TITLE, result.drawn)
        key = cv2.waitKey(_IMAGE_WAIT_MS if result.frame.kind == "image" else 1) & 0xFF
        if key in _QUIT or cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            raise StopRequested

    def close(self) -> None:
        """Close the window."""
        cv2.destroyAllWindows()

    abort = close
