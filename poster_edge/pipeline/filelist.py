"""A list of image and video files as one source; a file that cannot be read is reported, the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from poster_edge.errors import InputError
from poster_edge.pipeline.frame import Frame
from poster_edge.pipeline.images import decode_image, read_bytes
from poster_edge.pipeline.sources import Report, is_video
from poster_edge.pipeline.video import count_frames, video_frames


class FileList:
    """Images and videos one after another, in the order given."""

    live = False

    def __init__(self, paths: list[Path], *, report: Report, vid_stride: int = 1) -> None:
        """Take the files; nothing is opened yet.

        Args:
            paths: files to read.
            report: told of each file that cannot be read, or not to its end.
            vid_stride: take every N-th frame of a video.
        """
        self.inputs = [str(p) for p in paths]
        self._paths = paths
        self._videos = {p for p in paths if is_video(p)}
        self.moving = bool(self._videos)
        self._report = report
        self._stride = vid_stride
        self._more = True

    def ready(self) -> bool:
        """Whether there is more to come, as far as that is known before a video has been read to its end."""
        return self._more

    def total(self) -> int | None:
        """Frames to come, as far as the videos' headers are right."""
        counts = [count_frames(p, self._stride) if p in self._videos else 1 for p in self._paths]
        return None if None in counts else sum(c or 0 for c in counts)

    def __iter__(self) -> Iterator[Frame]:
        """Yield all frames of all files that can be read."""
        for number, path in enumerate(self._paths, 1):
            self._more = number < len(self._paths) or path in self._videos
            try:
                if path in self._videos:
                    yield from video_frames(path, report=self._report, stride=self._stride)
                else:
                    yield _image_frame(path)
            except InputError as error:
                self._report(str(error))


def _image_frame(path: Path) -> Frame:
    start = time.perf_counter()
    data = read_bytes(path)
    read = time.perf_counter()
    image = decode_image(data, str(path))
    end = time.perf_counter()
    return Frame(0, 0.0, str(path), image, 1e3 * (end - start), decode_ms=1e3 * (end - read))
