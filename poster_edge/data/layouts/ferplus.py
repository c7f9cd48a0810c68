"""FERPlus: ten votes for each face of FER2013, in a csv file row by row with FER2013's.

Columns of ``fer2013new.csv``: Usage, Image name, eight emotions, "unknown" and "NF" (no face).  Images
come from ``fer2013.csv`` beside it, or from ``FER2013Train``, ``FER2013Valid`` and ``FER2013Test``.

Targets, from votes of which single ones have been taken out as noise:

- "majority": the emotion with more than half of the votes, all columns counted; other rows are left out;
- "probability": each emotion's share of the votes for emotions;
- "multi-label": all emotions with more than 30 % of the votes for emotions, in equal shares.

Rows in which "NF" has a vote that counts, or "unknown" leads, are left out of all of them.

Source: Barsoum et al., "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced
Label Distribution" (2016), sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.faces import FaceSet
from poster_edge.data.layouts import fer2013
from poster_edge.data.layouts.tables import face_set, integer, must_exist, read_image, rows
from poster_edge.errors import InputError, UsageError
from poster_edge.labels import LABEL_SETS

TARGETS = ("majority", "probability", "multi-label")
EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
_TABLE = "fer2013new.csv"
_COLUMNS = ("usage", *EMOTIONS, "unknown", "nf")
_FOLDERS = {"train": "FER2013Train", "validation": "FER2013Valid", "test": "FER2013Test"}
_VOTES = 10
_MULTI_LABEL_SHARE = 0.3


def fits(path: Path) -> bool:
    """Whether a folder holds FERPlus' votes."""
    return (path / _TABLE).is_file()


def target(votes: NDArray[np.integer], kind: str, classes: int) -> NDArray[np.float32] | None:
    """Target (C,) of one row of votes (10,): eight emotions, unknown, no face; None leaves the row out.

    Args:
        votes: as in the file.
        kind: one of :data:`TARGETS`.
        classes: 8, or 7 to leave contempt out.
    """
    counted = np.where(votes > 1, votes, 0)
    emotions, unknown, no_face = counted[:classes].astype(np.float64), counted[8], counted[9]
    others = counted[classes:8].sum()
    if no_face or not emotions.sum() or max(unknown, others) >= emotions.max():
        return None
    if kind == "majority":
        if 2 * emotions.max() <= counted.sum():
            return None
        chosen = emotions == emotions.max()
    elif kind == "multi-label":
        chosen = emotions > _MULTI_LABEL_SHARE * emotions.sum()
        if not chosen.any():
            return None
    else:
        return (emotions / emotions.sum()).astype(np.float32)
    return (chosen / chosen.sum()).astype(np.float32)


def read(path: Path, dataset: str, targets: str) -> FaceSet:
    """Faces of FERPlus; labels are the largest entry of each target.

    Args:
        path: folder of ``fer2013new.csv``.
        dataset: "ferplus" (8 classes) or "ferplus7" (without contempt).
        targets: one of :data:`TARGETS`.

    Raises:
        UsageError: unknown kind of target.
        InputError: a file is missing or a row is wrong.
    """
    if targets not in TARGETS:
        raise UsageError(f"targets {targets!r}: expected {', '.join(TARGETS)}")
    table, classes = path / _TABLE, len(LABEL_SETS[dataset].classes)
    kept: list[tuple[int, str, str]] = []
    soft = []
    count = 0
    for line, row in rows(table, _COLUMNS, f"expected FERPlus' own {_TABLE}"):
        where = f"{table}, line {line}"
        votes = np.array([integer(row[c], f"{where}, {c}", 0, _VOTES) for c in _COLUMNS[1:]])
        found = target(votes, targets, classes)
        if found is not None:
            kept.append((count, fer2013.role_of(row["usage"], where), row.get("image name", "")))
            soft.append(found)
        count += 1
    read_one = _images(path, count, kept)
    table_of_targets = np.stack(soft) if soft else np.zeros((0, classes), np.float32)
    labels = table_of_targets.argmax(axis=1)
    roles = [role for _, role, _ in kept]
    names = [name or fer2013.name_of(number) for number, _, name in kept]
    return face_set(
        path,
        dataset,
        labels.tolist(),
        roles,
        read_one,
        soft=None if targets == "majority" else table_of_targets,
        left_out=count - len(kept),
        names=names,
    )


def _images(path: Path, count: int, kept: list[tuple[int, str, str]]) -> Callable[[int], NDArray[np.uint8]]:
    """Row of the face set -> image, from FER2013's pixels or from the folders FERPlus' tools make."""
    table = fer2013.table_of(path)
    if table is None:
        files = [path / _FOLDERS[role] / name for _, role, name in kept]
        if not any((path / folder).is_dir() for folder in _FOLDERS.values()):
            raise InputError(
                f"{path}: {_TABLE} holds votes only; put FER2013's fer2013.csv beside it "
                f"(or {', '.join(_FOLDERS.values())})"
            )
        must_exist(path, files, "make them again with FERPlus' own script, or put fer2013.csv there")
        return lambda i: read_image(files[i])
    faces = fer2013.read(path)
    if len(faces) != count:
        raise InputError(f"{table} has {len(faces)} faces, {path / _TABLE} {count} rows: they must go row by row")
    numbers = [number for number, _, _ in kept]
    return lambda i: faces.read(numbers[i])
