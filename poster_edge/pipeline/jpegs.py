"""JPEG frames written one after another to a pipe (``ffmpeg -f mjpeg - | poster-edge run -s -``)."""

from __future__ import annotations

import io
import select
import time
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from poster_edge.errors import InputError
from poster_edge.pipeline.frame import Frame
from poster_edge.pipeline.headers import JpegWalker
from poster_edge.pipeline.images import decode_image
from poster_edge.pipeline.sources import Report
from poster_edge.pipeline.video import DEFAULT_FPS

NAME = "stdin"
_BLOCK = 1 << 16
_MOST_FRAME_BYTES = 64 << 20
_START = b"\xff\xd8\xff"


class JpegSplitter:
    """Cuts a stream of bytes into whole JPEG images by their markers.

    Attributes:
        skipped: bytes thrown away because they belonged to no whole image.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._buffer = bytearray()
        self._walker: JpegWalker | None = None

    @property
    def pending(self) -> int:
        """Bytes of an image that has begun and not ended."""
        return len(self._buffer) if self._walker else 0

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Take more bytes; yield the images that they complete."""
        self._buffer += block
        while self._walker or self._begin():
            assert self._walker is not None
            try:
                end = self._walker.walk(self._buffer)
            except ValueError:
                # A broken image: its remains are skipped up to where the next one starts.
                self._drop(max(2, self._walker.at))
                continue
            if end is None:
                if len(self._buffer) > _MOST_FRAME_BYTES:
                    self._drop(2)
                    continue
                return
            image = bytes(self._buffer[:end])
            del self._buffer[:end]
            self._walker = None
            yield image

    def _begin(self) -> bool:
        at = self._buffer.find(_START)
        if at < 0:
            # The last two bytes may be the first of a start.
            self._discard(max(0, len(self._buffer) - 2))
            return False
        self._discard(at)
        self._walker = JpegWalker()
        return True

    def _drop(self, count: int) -> None:
        self._discard(count)
        self._walker = None

    def _discard(self, count: int) -> None:
        self.skipped += min(count, len(self._buffer))
        del self._buffer[:count]


class JpegStream:
    """Standard input as a source: every frame is taken, in order."""

    live = False
    moving = True

    def __init__(self, stream: BinaryIO, *, report: Report, vid_stride: int = 1) -> None:
        """Take the stream; nothing is read yet.

        Args:
            stream: binary stream of concatenated JPEG files.
            report: told of damaged frames and of a truncated last one.
            vid_stride: take every N-th frame.
        """
        self.inputs: list[str] = []
        self._stream = stream
        self._report = report
        self._stride = vid_stride
        self._waiting: deque[bytes] = deque()
        self._next = 0

    def ready(self) -> bool:
        """Whether the next frame to be taken is there, or its beginning."""
        skipped = -self._next % self._stride
        if len(self._waiting) != skipped:
            return len(self._waiting) > skipped
        try:
            return bool(select.select([self._stream], [], [], 0)[0])
        except (OSError, ValueError):
            # No pipe of the system's (bytes in memory), or a system that cannot look into one.
            return isinstance(self._stream, io.BytesIO)

    def total(self) -> None:
        """Unknown."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; ends with the stream.

        Raises:
            InputError: there was no JPEG in it at all.
        """
        splitter = JpegSplitter()
        index, first = 0, None
        start = time.perf_counter()
        for data in self._images(splitter):
            first = first or start
            self._next = index + 1
            if index % self._stride == 0:
                came = time.perf_counter()
                try:
                    image = decode_image(data, f"{NAME}, frame {index}")
                except InputError as error:
                    self._report(str(error))
                else:
                    now = time.perf_counter()
                    fps = DEFAULT_FPS / self._stride
                    ms, decode_ms = 1e3 * (now - start), 1e3 * (now - came)
                    yield Frame(index, now - first, NAME, image, ms, "video", fps, decode_ms)
            index += 1
            start = time.perf_counter()
        self._judge(index, splitter)

    def _images(self, splitter: JpegSplitter) -> Iterator[bytes]:
        read = getattr(self._stream, "read1", self._stream.read)
        while block := read(_BLOCK):
            self._waiting.extend(splitter.feed(block))
            while self._waiting:
                yield self._waiting.popleft()

    def _judge(self, count: int, splitter: JpegSplitter) -> None:
        if count == 0 and not splitter.pending:
            empty = "nothing came" if not splitter.skipped else f"no JPEG among {splitter.skipped} bytes"
            raise InputError(f"standard input: {empty}; expected JPEG files one after another")
        if splitter.skipped:
            self._report(f"standard input: {splitter.skipped} bytes that belong to no whole JPEG were skipped")
        if splitter.pending:
            self._report(f"standard input: frame {count} is truncated: the stream ended inside it")
