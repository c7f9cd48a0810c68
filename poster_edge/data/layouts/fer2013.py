"""FER2013 as published: one csv file of emotion, pixels and usage.

Its codes are 0 angry, 1 disgust, 2 fear, 3 happy, 4 sad, 5 surprise, 6 neutral; here classes are
alphabetical, as in the folders people unpack it to.

Source: Goodfellow et al., "Challenges in Representation Learning: A Report on Three Machine Learning
Contests" (2013), section 2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.faces import FaceSet
from poster_edge.data.layouts.tables import face_set, integer, rows
from poster_edge.errors import InputError
from poster_edge.labels import LABEL_SETS

CODES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
ROLES = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
SIDE = 48
NAMES = ("fer2013.csv", "icml_face_data.csv")
_REMEDY = "expected FER2013's own csv file (emotion, pixels, Usage)"


def fits(path: Path) -> bool:
    """Whether a path is such a csv file, or a folder with one."""
    return table_of(path) is not None


def table_of(path: Path) -> Path | None:
    """The csv file that a path is or holds."""
    if path.is_file():
        return path if path.suffix.lower() == ".csv" else None
    return next((path / n for n in NAMES if (path / n).is_file()), None)


def read(path: Path) -> FaceSet:
    """Faces of FER2013; Training, PublicTest and PrivateTest are "train", "validation" and "test".

    Raises:
        InputError: not that file, or a row is wrong; names the line.
    """
    table = table_of(path)
    assert table is not None
    position = [LABEL_SETS["fer2013"].classes.index(name) for name in CODES]
    labels, roles, images = [], [], []
    for line, row in rows(table, ("emotion", "pixels", "usage"), _REMEDY):
        where = f"{table}, line {line}"
        labels.append(position[integer(row["emotion"], where, 0, len(CODES) - 1)])
        roles.append(role_of(row["usage"], where))
        images.append(pixels(row["pixels"], where))
    names = [name_of(row) for row in range(len(images))]
    return face_set(path, "fer2013", labels, roles, images.__getitem__, names=names)


def name_of(row: int) -> str:
    """What FERPlus calls the image in a row (0 first) of FER2013's csv file."""
    return f"fer{row:07d}.png"


def role_of(usage: str, where: str) -> str:
    """Split of a row.

    Raises:
        InputError: an unknown usage.
    """
    if usage not in ROLES:
        raise InputError(f"{where}: usage {usage!r}, expected {', '.join(ROLES)}")
    return ROLES[usage]


def pixels(text: str, where: str) -> NDArray[np.uint8]:
    """The image (48, 48) that a row spells out.

    Raises:
        InputError: not 48 x 48 numbers from 0 to 255.
    """
    try:
        values = np.array(text.split(), np.int64)
    except (ValueError, OverflowError):
        raise InputError(f"{where}: pixels must be numbers") from None
    if values.shape != (SIDE * SIDE,) or values.min() < 0 or values.max() > 255:
        raise InputError(f"{where}: expected {SIDE * SIDE} pixels of 0 to 255, got {len(values)} values")
    # 2304 -> 48 x 48
    return values.astype(np.uint8).reshape(SIDE, SIDE)
