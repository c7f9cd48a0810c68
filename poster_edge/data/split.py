"""Training and validation rows of a face set, with pixel-equal twins kept apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.faces import FaceSet
from poster_edge.errors import InputError


@dataclass(frozen=True)
class Split:
    """Row numbers of the two splits of a face set.

    Attributes:
        train: rows to learn from, without twins of validation rows.
        validation: rows to select on.
        twins: (len(validation),) whether the row had a pixel-equal twin among the training rows.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    twins: NDArray[np.bool_]


def split_faces(faces: FaceSet, *, fraction: float = 0.1, seed: int = 0) -> Split:
    """Training and validation rows; the file's own split where it has one, else a stratified draw.

    Training rows whose pixels equal a validation row's are dropped.

    Args:
        faces: the whole set.
        fraction: share of each class that is held out, where the file has no split.
        seed: of that draw.

    Raises:
        InputError: nothing is left to train on, or nothing to validate on.
    """
    train, validation = faces.indices("train"), faces.indices("validation")
    if not len(train) or not len(validation):
        train, validation = _stratified(faces, fraction, seed)
    train_hashes, validation_hashes = faces.pixel_hashes(train), faces.pixel_hashes(validation)
    seen, held_out = set(train_hashes), set(validation_hashes)
    keep = np.array([h not in held_out for h in train_hashes], bool)
    if not keep.any() or not len(validation):
        raise InputError(f"{faces.name}: {keep.sum()} training and {len(validation)} validation images are too few")
    return Split(train[keep], validation, np.array([h in seen for h in validation_hashes], bool))


def _stratified(faces: FaceSet, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    held = []
    for k in range(len(faces.classes)):
        rows = rng.permutation(np.flatnonzero(faces.labels == k))
        held.append(rows[: max(1, round(fraction * len(rows)))] if len(rows) > 1 else rows[:0])
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(faces)), validation), validation
