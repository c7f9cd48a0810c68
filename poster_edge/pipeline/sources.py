"""Opens what ``--source`` names: images, folders, globs, videos, cameras, streams, standard input."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from poster_edge.data.faces import IMAGE_SUFFIXES
from poster_edge.errors import InputError, UsageError
from poster_edge.pipeline.frame import Source
from poster_edge.pipeline.headers import sniff

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".gif"})

_STREAMS = ("rtsp://", "rtsps://", "http://", "https://", "csi://", "v4l2://")
_DEVICE = re.compile(r"\d+|/dev/(video\d+|v4l/.+)")

#: Called with one line for each input that cannot be read, or not to its end; the rest goes on.
Report = Callable[[str], None]


def open_source(
    spec: str, *, report: Report, notify: Report, vid_stride: int = 1, stdin: BinaryIO | None = None
) -> Source:
    """Make the source that ``spec`` names.

    Args:
        spec: image, folder, glob, video, camera number, ``/dev/video0``, ``v4l2://…``, ``csi://0``,
            ``rtsp://…``, ``http://…`` or ``-`` (JPEG frames on standard input).
        report: told of each unreadable input, which makes the run end with exit code 1.
        notify: told of what the user should know but is no fault of an input (a camera's return).
        vid_stride: take every N-th frame of videos, cameras and streams.
        stdin: read for ``-`` instead of the process's own.

    Raises:
        InputError: nothing is there, or nothing of use.
        UsageError: standard input is a terminal.
        UnavailableError: a camera cannot be opened.
    """
    if spec == "-":
        return _open_stdin(stdin or sys.stdin.buffer, report, vid_stride)
    if spec.startswith(_STREAMS) or _DEVICE.fullmatch(spec):
        from poster_edge.pipeline.camera import Camera

        return Camera(spec, notify=notify, vid_stride=vid_stride)
    from poster_edge.pipeline.filelist import FileList

    return FileList(find_files(spec.removeprefix("file://")), report=report, vid_stride=vid_stride)


def _open_stdin(stdin: BinaryIO, report: Report, vid_stride: int) -> Source:
    from poster_edge.pipeline.jpegs import JpegStream

    if stdin.isatty():
        raise UsageError(
            "--source - expects JPEG frames on standard input, which is a terminal: pipe something into it"
        )
    return JpegStream(stdin, report=report, vid_stride=vid_stride)


def find_files(spec: str) -> list[Path]:
    """List the images and videos that a path or a glob names, sorted by name.

    Raises:
        InputError: nothing is there, or no image or video among it.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return [path]
    if path.exists():
        raise InputError(f"{spec}: neither a file nor a folder; for JPEG frames from a pipe use --source -")
    if any(c in spec for c in "*?["):
        found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - absolute too
        files = [p for p in found if p.is_file() and _is_media(p)]
        if not files:
            what = "matches nothing" if not found else f"matches {len(found)} paths but no image or video"
            raise InputError(f"{spec}: {what}")
        return files
    raise InputError(f"{spec}: no such file, folder or camera")


def _in_folder(folder: Path) -> list[Path]:
    try:
        files = sorted(p for p in folder.iterdir() if p.is_file() and _is_media(p))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error
    if not files:
        raise InputError(
            f"{folder}: no images (.jpg .png .bmp .webp) or videos (.mp4 .avi .mkv …) in this folder; "
            f"folders inside it are searched by a glob: '{folder}/**/*.jpg'"
        )
    return files


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not path.name.startswith(".")


def is_video(path: Path) -> bool:
    """Whether a file is to be opened as a video: by its suffix, else by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return suffix in VIDEO_SUFFIXES
    try:
        with path.open("rb") as file:
            return sniff(file.read(32)) is None
    except OSError:
        return False
