"""Haar cascades, the face detector of last resort: part of OpenCV 4, slower and blinder than YuNet.

Viola, Jones: "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import UnavailableError
from poster_edge.vision.faces import Face, Image, largest_first, shrink

#: On 60 test frames with 115 faces that YuNet finds, this cascade found 60 and nothing wrong; the
#: better known ``default`` found 52 with 2 wrong ones, or 61 with 10 at twice the time.
CASCADE = "haarcascade_frontalface_alt2.xml"

_PIXELS = 640 * 480
_SMALLEST_PX = 20
_SCALE_STEP = 1.2
_NEIGHBOURS = 2

#: YuNet's box seen from Haar's square of side s: width / s, height / s, downward shift of the
#: centre / s.  Medians over 98 faces of the test media that both detectors find (YuNet's score
#: above 0.8), measured by ``benchmarks/crop_framing.py``; quartiles in its results file.  The
#: sideways shift (median -0.02) is taken as 0: it depends on where people look.
WIDTH, HEIGHT, DOWN = 0.85, 1.13, 0.03

#: Last-stage weight that counts as a score of one half, and the weight that moves the odds by e.
#: Chosen on the same frames: the weights of true faces have median 56 and 5th percentile 54.9.
_HALF, _STEP = 54.2, 0.8

_SYSTEM_FOLDERS = (Path("/usr/share/opencv4/haarcascades"), Path("/usr/local/share/opencv4/haarcascades"))


class Haar:
    """Frontal-face cascade whose boxes are brought to YuNet's framing; no landmarks."""

    name = "haar"

    def __init__(self, *, conf: float = 0.6) -> None:
        """Load the cascade.

        Args:
            conf: least score of a face, 0 to 1.

        Raises:
            UnavailableError: this OpenCV has no Haar cascades.
        """
        self._conf = conf
        self._cascade = _load_cascade()

    def detect(self, bgr: Image, *, fine: bool = False) -> list[Face]:
        """Find frontal faces, the largest first; ``fine`` changes nothing (it would take seconds)."""
        small, scale = shrink(bgr, _PIXELS)
        squares, weights = self.squares(small)
        scores = [squash(w) for w in weights]
        return largest_first(
            [to_yunet(s / scale, score) for s, score in zip(squares, scores, strict=True) if score >= self._conf]
        )

    def squares(self, bgr: Image) -> tuple[NDArray[np.float64], list[float]]:
        """The cascade's own output: (N, 4) squares (x, y, s, s) in pixels and their last-stage weights."""
        gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        found: Any = self._cascade.detectMultiScale3(
            gray,
            scaleFactor=_SCALE_STEP,
            minNeighbors=_NEIGHBOURS,
            minSize=(_SMALLEST_PX, _SMALLEST_PX),
            outputRejectLevels=True,
        )
        # N x 4; OpenCV gives an empty tuple where there is none
        squares = np.asarray(found[0], np.float64).reshape(-1, 4)
        return squares, [float(w) for w in np.ravel(found[2])][: len(squares)]


def squash(weight: float) -> float:
    """Turn a cascade's last-stage weight into a score between 0 and 1."""
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, (weight - _HALF) / _STEP))))


def to_yunet(square: NDArray[np.float64], score: float) -> Face:
    """Bring Haar's square (x, y, s, s) to the box that YuNet would put around the same face."""
    x, y, side = (float(v) for v in square[:3])
    cx, cy = x + side / 2, y + side * (0.5 + DOWN)
    return Face((cx - side * WIDTH / 2, cy - side * HEIGHT / 2, side * WIDTH, side * HEIGHT), score)


def find_cascade() -> Path | None:
    """The cascade's file, in OpenCV's wheel or where Linux distributions and JetPack put it."""
    data = getattr(getattr(cv2, "data", None), "haarcascades", None)
    folders = ([Path(data)] if data else []) + list(_SYSTEM_FOLDERS)
    return next((p for p in (f / CASCADE for f in folders) if p.is_file()), None)


def _load_cascade() -> cv2.CascadeClassifier:
    path = find_cascade()
    if path is None or not hasattr(cv2, "CascadeClassifier"):
        raise UnavailableError(
            f"OpenCV {cv2.__version__} has no Haar cascades (OpenCV 5 dropped them, on Debian and JetPack they are "
            "in the package opencv-data): use --detector yunet (pip install 'poster-edge[faces]')"
        )
    cascade = cv2.CascadeClassifier(str(path))
    if cascade.empty():
        raise UnavailableError(f"{path} cannot be loaded: reinstall OpenCV or use --detector yunet")
    return cascade
