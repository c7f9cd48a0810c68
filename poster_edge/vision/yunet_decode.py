"""From what YuNet's network gives to faces: Wu, Peng, Yu, "YuNet", Machine Intelligence Research 20, 2023, section 3.

At strides 8, 16 and 32 every cell of the picture has a class score, an objectness, a box and five points, the last
two as distances from the cell's corner in strides.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

STRIDES = (8, 16, 32)
#: Names of the network's outputs: (1, cells, 1), (1, cells, 1), (1, cells, 4), (1, cells, 10) at each stride.
KINDS = ("cls", "obj", "bbox", "kps")
OUTPUTS = tuple(f"{kind}_{stride}" for kind in KINDS for stride in STRIDES)

#: Share of two boxes' union above which they are one face, and how many candidates are looked at.
_OVERLAP = 0.3
_CANDIDATES = 5000


def decode(outputs: Mapping[str, NDArray[np.float32]], width: int, conf: float) -> NDArray[np.float32]:
    """Faces of one picture.

    Args:
        outputs: by their names, see OUTPUTS.
        width: of the network's input in px, a multiple of 32.
        conf: least score.

    Returns:
        (N, 15): x, y, w, h, five points as x, y, and the score; the best first.
    """
    rows = np.concatenate([_at_stride(outputs, stride, width // stride, conf) for stride in STRIDES])
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        return rows
    # In whole pixels, as OpenCV's own detector compares them.
    boxes = rows[:, :4].astype(np.int64).tolist()
    kept = cv2.dnn.NMSBoxes(boxes, rows[:, 14].tolist(), conf, _OVERLAP, top_k=_CANDIDATES)
    return np.asarray(rows[np.asarray(kept, np.int64).reshape(-1)], np.float32)


def _at_stride(
    outputs: Mapping[str, NDArray[np.float32]], stride: int, columns: int, conf: float
) -> NDArray[np.float32]:
    classes, objects, boxes, points = (outputs[f"{kind}_{stride}"][0] for kind in KINDS)
    scores = np.sqrt(np.clip(classes[:, 0], 0, 1) * np.clip(objects[:, 0], 0, 1))
    (cells,) = np.nonzero(scores >= conf)
    corners = np.stack([cells % columns, cells // columns], axis=1).astype(np.float32)
    centres = (corners + boxes[cells, :2]) * stride
    # N x 10 -> N x 5 x 2
    marks = (points[cells].reshape(-1, 5, 2) + corners[:, None]) * stride
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = np.exp(boxes[cells, 2:]) * stride
        places = centres - sizes / 2
    # N x 5 x 2 -> N x 10
    return np.concatenate([places, sizes, marks.reshape(-1, 10), scores[cells, None]], axis=1, dtype=np.float32)
