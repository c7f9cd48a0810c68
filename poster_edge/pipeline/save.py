"""Saves annotated pictures: an image for an image, a video for a video or a camera, a folder for many."""

from __future__ import annotations

from pathlib import Path

import cv2

from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.files import write_atomic
from poster_edge.pipeline.frame import Frame, FrameResult
from poster_edge.pipeline.save_video import CODECS, VideoWriter

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_JPEG_QUALITY = 95


class Saver:
    """Sink that writes the drawn pictures below one path."""

    def __init__(self, path: Path, *, inputs: list[str], many: bool) -> None:
        """Decide what the path means; nothing is written yet.

        Args:
            path: an image file, a video file, or a folder (made if missing).
            inputs: files being read, which are never overwritten.
            many: whether more than one file is read, so that only a folder will do.

        Raises:
            UsageError: the path does not fit the inputs or would overwrite one of them.
        """
        self._path = path
        self._inputs = {Path(p).resolve() for p in inputs}
        self._folder = path.is_dir() or not path.suffix
        self._taken: dict[str, str] = {}
        self._video: VideoWriter | None = None
        self._video_source = ""
        suffix = path.suffix.lower()
        if not self._folder and suffix not in (*IMAGE_SUFFIXES, *CODECS):
            raise UsageError(
                f"--save {path}: unknown kind of file; expected {' '.join((*IMAGE_SUFFIXES, *CODECS))} or a folder"
            )
        if not self._folder and many:
            raise UsageError(f"--save {path}: there are {len(inputs)} inputs, so give a folder")
        targets = [path] if not self._folder else [path / Path(p).name for p in inputs]
        for target in targets:
            self._refuse_input(target)

    def _refuse_input(self, target: Path) -> None:
        if target.resolve() in self._inputs:
            raise UsageError(f"--save {self._path}: would overwrite the input {target}; give another place")

    def write(self, result: FrameResult) -> None:
        """Write one drawn picture.

        Raises:
            PosterEdgeError: it cannot be written.
            UsageError: an image was to become a video, or the other way round.
        """
        assert result.drawn is not None
        if result.frame.kind == "image":
            self._finish_video()
            self._write_image(result)
            return
        if self._video is None or self._video_source != result.frame.source:
            self._finish_video()
            self._video_source = result.frame.source
            self._video = VideoWriter(self._target(result.frame, CODECS, ".mp4"), result.frame)
        self._video.write(result.frame, result.drawn)

    def _write_image(self, result: FrameResult) -> None:
        target = self._target(result.frame, IMAGE_SUFFIXES, ".jpg")
        flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if target.suffix.lower() in (".jpg", ".jpeg") else []
        assert result.drawn is not None
        good, data = cv2.imencode(target.suffix, result.drawn, flags)
        if not good:
            raise PosterEdgeError(f"cannot write {target}: OpenCV cannot encode this picture as {target.suffix}")
        write_atomic(target, data.tobytes())

    def _target(self, frame: Frame, suffixes: tuple[str, ...] | dict[str, str], fallback: str) -> Path:
        if not self._folder:
            if self._path.suffix.lower() not in suffixes:
                what = "an image" if frame.kind == "image" else "a video"
                raise UsageError(
                    f"--save {self._path}: the source is {what}, which needs {' '.join(suffixes)} or a folder"
                )
            return self._path
        name = _file_name(frame.source)
        suffix = name.suffix if name.suffix.lower() in suffixes else fallback
        target = self._path / self._free_name(name.stem, suffix, frame.source)
        self._refuse_input(target)
        return target

    def _free_name(self, stem: str, suffix: str, source: str) -> str:
        """A name of its own for each source: files of several folders may bear the same one."""
        name, number = f"{stem}{suffix}", 1
        while self._taken.setdefault(name, source) != source:
            number += 1
            name = f"{stem}-{number}{suffix}"
        return name

    def _finish_video(self) -> None:
        if self._video:
            video, self._video = self._video, None
            video.close()

    def close(self) -> None:
        """Finish what is open and give it its name.

        Raises:
            PosterEdgeError: a video could not be written in full.
        """
        self._finish_video()

    def abort(self) -> None:
        """Throw away a video that is not finished."""
        if self._video:
            video, self._video = self._video, None
            video.abort()


def _file_name(source: str) -> Path:
    """A file name for a source: a file's own, or one made of a device's or an address's letters."""
    if "://" not in source and not source.startswith("/dev/") and Path(source).suffix:
        return Path(Path(source).name)
    letters = "".join(c if c.isalnum() else "-" for c in source.partition("://")[2] or source)
    return Path(("camera" + letters if source.isdigit() else letters.strip("-")) or "stream")
