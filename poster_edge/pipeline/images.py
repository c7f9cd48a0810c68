"""Reads image files safely: structure first, then OpenCV, always as 8-bit BGR and upright."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from poster_edge.errors import InputError
from poster_edge.pipeline.headers import check_image
from poster_edge.vision.faces import Image

_MOST_FILE_BYTES = 500_000_000


def read_image(path: Path) -> Image:
    """Read one image file.

    EXIF orientation is applied, 16-bit samples are reduced to 8, gray is repeated, alpha dropped.

    Returns:
        (h, w, 3) BGR.

    Raises:
        InputError: missing, unreadable, no image, damaged or too large.
    """
    return decode_image(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file, not looked at yet.

    Raises:
        InputError: missing, unreadable or too large.
    """
    try:
        if path.stat().st_size > _MOST_FILE_BYTES:
            raise InputError(f"{path}: more than {_MOST_FILE_BYTES // 10**6} MB, too large for an image")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def decode_image(data: bytes, name: str) -> Image:
    """Decode an image from memory; see :func:`read_image`.

    Raises:
        InputError: the bytes are no whole image of a sensible size; names ``name``.
    """
    check_image(data, name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError):
        image = None
    if image is None:
        raise InputError(f"{name}: damaged image, cannot be decoded")
    return np.asarray(image, np.uint8)


def as_bgr(image: Image) -> Image:
    """Bring what a camera or a video gives to (h, w, 3) BGR: gray and alpha are converted."""
    if image.ndim == 3 and image.shape[2] == 3:
        return image
    code = cv2.COLOR_BGRA2BGR if image.ndim == 3 and image.shape[2] == 4 else cv2.COLOR_GRAY2BGR
    return np.asarray(cv2.cvtColor(image, code), np.uint8)
