"""Cameras and network streams: always the latest picture, and back again after a loss.

A thread reads as fast as the camera gives and keeps one picture.  ``read()`` can hang for ever
(OpenCV issue 22677), so the thread is a daemon that can be abandoned; the iterator only waits with
a timeout.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from poster_edge.errors import PosterEdgeError, UnavailableError
from poster_edge.pipeline.capture import masked, open_capture
from poster_edge.pipeline.frame import Frame
from poster_edge.pipeline.images import as_bgr
from poster_edge.pipeline.sources import Report
from poster_edge.pipeline.video import frame_rate
from poster_edge.vision.faces import Image

#: Without a picture for so long (s) a camera counts as lost.
STALL_S = 3.0
FIRST_PICTURE_S = 10.0
_BACKOFF_S = (0.2, 0.4, 0.8, 1.0)
#: Threads that hang inside a driver and cannot be ended; more of them mean it will not recover.
_MOST_HUNG = 5


class Reader(threading.Thread):
    """Reads one opened camera until it fails or is told to stop; holds the latest picture."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        super().__init__(name="poster-edge-camera", daemon=True)
        self._capture = capture
        self._news = threading.Condition()
        self._image: Image | None = None
        self._read_ms = 0.0
        self._count = 0
        self._ended = False
        self._stop_asked = False

    def run(self) -> None:
        """Read until the end."""
        try:
            while not self._stop_asked:
                start = time.perf_counter()
                good, image = self._capture.read()
                if not good or image is None:
                    break
                with self._news:
                    self._image = np.asarray(image, np.uint8)
                    self._read_ms = (time.perf_counter() - start) * 1e3
                    self._count += 1
                    self._news.notify_all()
        except cv2.error:
            pass
        finally:
            self._capture.release()
            with self._news:
                self._ended = True
                self._news.notify_all()

    def latest(self, after: int, timeout_s: float) -> tuple[int, Image, float] | None:
        """Wait for picture number ``after`` or a later one.

        Returns:
            Its number (1 first), the picture and the time it took to read in ms; None where the
            camera failed or gave nothing in time.
        """
        with self._news:
            self._news.wait_for(lambda: self._count >= after or self._ended, timeout_s)
            if self._count < after or self._image is None:
                return None
            return self._count, self._image, self._read_ms

    def has(self, number: int) -> bool:
        """Whether picture ``number`` or a later one is there."""
        return self._count >= number

    def stop(self) -> None:
        """Ask the thread to end after the picture it is reading."""
        self._stop_asked = True


class Camera:
    """A camera or network stream as a source without an end."""

    live = True
    moving = True

    def __init__(
        self,
        spec: str,
        *,
        notify: Report,
        vid_stride: int = 1,
        opener: Callable[[str], cv2.VideoCapture] = open_capture,
        stall_s: float = STALL_S,
    ) -> None:
        """Open the camera.

        Args:
            spec: what ``--source`` named.
            notify: told once when the camera is lost and once when it is back.
            vid_stride: take every N-th picture it gives.
            opener: opens ``spec`` or raises UnavailableError.
            stall_s: seconds without a picture after which the camera counts as lost.

        Raises:
            UnavailableError: it cannot be opened.
        """
        self.inputs: list[str] = []
        self.name = masked(spec)
        self._spec = spec
        self._notify = notify
        self._stride = vid_stride
        self._opener = opener
        self._stall_s = stall_s
        self._hung: list[Reader] = []
        self._wanted = 1
        self._reader = self._start()

    def ready(self) -> bool:
        """Whether a picture that was not yielded yet is there."""
        return self._reader.has(self._wanted)

    def _start(self) -> Reader:
        capture = self._opener(self._spec)
        self._fps = frame_rate(capture)
        reader = Reader(capture)
        reader.start()
        return reader

    def total(self) -> None:
        """Unknown."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield the latest picture each time; never the same one twice.

        Raises:
            UnavailableError: the camera opened but never gave a picture.
            PosterEdgeError: it hangs again and again and cannot be recovered.
        """
        index, first = 0, None
        self._wanted = 1
        try:
            while True:
                patience = self._stall_s if first else max(self._stall_s, FIRST_PICTURE_S)
                got = self._reader.latest(self._wanted, patience)
                if got is None:
                    if first is None:
                        raise UnavailableError(
                            f"camera {self.name} opened but gave no picture: is another program using it?"
                        )
                    self._reconnect()
                    self._wanted = 1
                    continue
                number, image, read_ms = got
                index += number - self._wanted
                self._wanted = number + self._stride
                now = time.monotonic()
                first = first or now
                yield Frame(index, now - first, self.name, as_bgr(image), read_ms, "live", self._fps / self._stride)
                index += self._stride
        finally:
            self._reader.stop()

    def _reconnect(self) -> None:
        self._notify(f"camera {self.name}: no picture; trying to reconnect (Ctrl-C ends)")
        self._abandon()
        attempt = 0
        while True:
            pause = _BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)]
            time.sleep(pause * random.uniform(0.8, 1.2))
            attempt += 1
            try:
                self._reader = self._start()
            except UnavailableError:
                continue
            if self._reader.latest(1, self._stall_s) is not None:
                self._notify(f"camera {self.name}: back")
                return
            self._abandon()

    def _abandon(self) -> None:
        self._reader.stop()
        self._reader.join(0.2)
        self._hung = [r for r in (*self._hung, self._reader) if r.is_alive()]
        if len(self._hung) > _MOST_HUNG:
            raise PosterEdgeError(f"camera {self.name} hangs and cannot be recovered: unplug it or restart the machine")
