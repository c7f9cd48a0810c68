"""CK+ (extended Cohn-Kanade): the last three frames of every labelled sequence, grouped by subject.

``Emotion/S005/001/*_emotion.txt`` holds a code (1 angry, 2 contempt, 3 disgust, 4 fear, 5 happy, 6 sad,
7 surprise); ``cohn-kanade-images/S005/001/*.png`` the frames, from neutral to the peak.  Most sequences have no
code and are left out.  Faces are cut out around the 68 points of ``Landmarks``.

The groups are subjects, so that folds can be made of which none shares a person with another.

Source: Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)" (2010), sections 2 and 3.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.faces import FaceSet
from poster_edge.data.layouts.tables import face_set, read_image
from poster_edge.errors import InputError

LAST_FRAMES = 3
_IMAGES, _CODES, _POINTS = "cohn-kanade-images", "Emotion", "Landmarks"
#: Side of the cut over the longer side of the points' box.
_MARGIN = 1.2


def fits(path: Path) -> bool:
    """Whether a folder is CK+."""
    return (path / _IMAGES).is_dir()


def read(path: Path) -> FaceSet:
    """Faces of CK+, frames of a sequence one after another.

    Raises:
        InputError: codes, frames or landmarks are missing, or a file is wrong.
    """
    if not (path / _CODES).is_dir():
        raise InputError(f"{path / _CODES} is missing; unpack CK+'s Emotion_labels there")
    files: list[Path] = []
    labels: list[int] = []
    for table in sorted((path / _CODES).glob("*/*/*_emotion.txt")):
        frames = _frames(path, table)
        files += frames
        labels += [_code(table) - 1] * len(frames)
    subjects = [f.parent.parent.name for f in files]
    names = [f.name for f in files]
    return face_set(
        path, "ckplus", labels, [""] * len(files), lambda i: _face(path, files[i]), groups=subjects, names=names
    )


def _code(table: Path) -> int:
    try:
        value = float(table.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{table}: expected one number ({error})") from error
    if value not in range(1, 8):
        raise InputError(f"{table}: code {value:g} is outside 1..7")
    return int(value)


def _frames(path: Path, table: Path) -> list[Path]:
    folder = path / _IMAGES / table.parent.relative_to(path / _CODES)
    frames = sorted(folder.glob("*.png"))
    if len(frames) < LAST_FRAMES:
        raise InputError(f"{folder}: {len(frames)} frames, but {table.name} labels the sequence; unpack CK+ again")
    return frames[-LAST_FRAMES:]


def _face(path: Path, frame: Path) -> NDArray[np.uint8]:
    table = path / _POINTS / frame.parent.relative_to(path / _IMAGES) / f"{frame.stem}_landmarks.txt"
    try:
        points = np.loadtxt(table, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{table}: no landmarks to cut the face out with ({error}); unpack CK+'s Landmarks, or give faces in "
            "class folders"
        ) from error
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise InputError(f"{table}: expected 68 rows of x and y, got {points.shape}")
    image = read_image(frame)
    low, high = points.min(axis=0), points.max(axis=0)
    half = _MARGIN * (high - low).max() / 2
    left, top = np.maximum(np.round((low + high) / 2 - half), 0).astype(int)
    right, bottom = np.round((low + high) / 2 + half).astype(int)
    face = image[top:bottom, left:right]
    if not face.size:
        raise InputError(f"{table}: its points lie outside of {frame.name}")
    return face
