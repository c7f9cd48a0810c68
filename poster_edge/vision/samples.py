"""The photos that come with the package, and face crops made from them for comparisons."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.config import Preprocess
from poster_edge.data.faces import decode
from poster_edge.vision.align import crop_upright

SAMPLES = Path(__file__).resolve().parent.parent / "zoo" / "samples"


def sample_crops(preprocess: Preprocess) -> list[NDArray[np.uint8]]:
    """Face crops (h, w, 3) BGR: each photo's face, shifted, mirrored, dimmed, brightened and blurred."""
    crops = []
    for entry in json.loads((SAMPLES / "faces.json").read_text()):
        photo = decode((SAMPLES / entry["file"]).read_bytes(), entry["file"])
        x, y, w, h = entry["box"]
        for dx, dy, zoom in ((0, 0, 1), (0.08, 0, 1), (0, -0.08, 1), (0, 0, 1.2), (0, 0, 0.85)):
            box = (x + dx * w + (1 - zoom) * w / 2, y + dy * h + (1 - zoom) * h / 2, w * zoom, h * zoom)
            crop = crop_upright(photo, box, preprocess)
            crops += [
                crop,
                np.ascontiguousarray(crop[:, ::-1]),
                np.asarray(cv2.convertScaleAbs(crop, alpha=0.4), np.uint8),
                np.asarray(cv2.convertScaleAbs(crop, alpha=1.3, beta=30), np.uint8),
                np.asarray(cv2.GaussianBlur(crop, (0, 0), max(crop.shape[0] / 60, 0.5)), np.uint8),
            ]
    return crops
