"""From face crops to the network's input: resize, colour order, normalisation.

The same function serves training's validation, ``eval``, export's comparison and ``run``, so that
the four cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.config import Preprocess

_INTERPOLATION = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}


def to_input(crops: Sequence[NDArray[np.uint8]], preprocess: Preprocess) -> NDArray[np.float32]:
    """Turn crops into one batch.

    Args:
        crops: N images, each (h, w, 3) in OpenCV's BGR order or (h, w) gray; any sizes.
        preprocess: the model's own settings.

    Returns:
        (N, 3, S, S) float32, contiguous.
    """
    size = preprocess.size
    batch = np.empty((len(crops), 3, size, size), np.float32)
    for out, crop in zip(batch, crops, strict=True):
        # H x W x 3 -> 3 x H x W
        out[:] = to_channels(resize_square(crop, size, preprocess.interpolation), preprocess.colour).transpose(2, 0, 1)
    batch *= np.float32(1 / 255)
    batch -= np.asarray(preprocess.mean, np.float32)[:, None, None]
    batch /= np.asarray(preprocess.std, np.float32)[:, None, None]
    return batch


def to_channels(image: NDArray[np.uint8], colour: str) -> NDArray[np.uint8]:
    """Bring a BGR or gray image to three channels in the order named by ``colour``."""
    if colour == "gray":
        gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        return np.repeat(np.asarray(gray, np.uint8)[:, :, None], 3, axis=2)
    bgr = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
    if colour == "rgb":
        bgr = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return np.asarray(bgr, np.uint8)


def resize_square(image: NDArray[np.uint8], size: int, interpolation: str) -> NDArray[np.uint8]:
    """Resize to ``size`` x ``size``, keeping the channels."""
    if image.shape[:2] == (size, size):
        return image
    # Bilinear sampling skips pixels when it shrinks by more than two, so a large face would alias.
    shrinks = min(image.shape[:2]) > 2 * size and interpolation == "linear"
    method = cv2.INTER_AREA if shrinks else _INTERPOLATION[interpolation]
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)
