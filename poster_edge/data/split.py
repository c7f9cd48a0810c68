"""Training and validation rows of a face set, with pixel-equal twins kept apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.faces import FaceSet
from poster_edge.errors import InputError, UsageError

#: Unreadable images that a message names.
_SHOWN = 3


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

    def unseen(self, faces: FaceSet) -> list[str]:
        """Classes of the face set that no training row has."""
        seen = set(faces.labels[self.train].tolist())
        return [name for k, name in enumerate(faces.classes) if k not in seen]


def split_faces(faces: FaceSet, *, fraction: float = 0.1, seed: int = 0) -> Split:
    """Training and validation rows; the file's own split where it has one, else a stratified draw.

    Training rows whose pixels equal a validation row's are dropped.

    Args:
        faces: the whole set.
        fraction: share of each class that is held out, where the file has no split.
        seed: of that draw.

    Raises:
        InputError: nothing is left to train on, or nothing to validate on, or images cannot be read.
    """
    train, validation = faces.indices("train"), faces.indices("validation")
    if not len(train) and (faces.roles != "").all():
        there = ", ".join(sorted({str(role) for role in faces.roles}))
        raise InputError(f"{faces.name}: its training images are missing, there are only those of: {there}")
    if not len(train) or not len(validation):
        # What a data set calls its test images is never drawn from.
        drawn = train if len(train) else np.flatnonzero(faces.roles != "test")
        train, validation = (
            _stratified(faces, drawn, fraction, seed)
            if faces.groups is None
            else _whole_groups(faces.groups, drawn, fraction, seed)
        )
    return _without_twins(faces, train, validation)


def split_fold(faces: FaceSet, number: int, *, folds: int = 10, seed: int = 0) -> Split:
    """One fold to validate on, the others to train on; see :func:`fold_of`.

    Training rows whose pixels equal a validation row's are dropped.

    Args:
        faces: the whole set.
        number: of the fold, 1 to ``folds``.
        folds: how many there are.
        seed: of the draw, where rows have no groups.

    Raises:
        UsageError: no such fold, more folds than there are groups or rows, or the data set has a split of its own.
    """
    if not 1 <= number <= folds:
        raise UsageError(f"fold {number}: expected 1 to {folds}")
    if (faces.roles != "").any():
        raise UsageError(f"{faces.name} has a split of its own: it is trained without --fold")
    inside = fold_of(faces, folds, seed=seed) == number - 1
    return _without_twins(faces, np.flatnonzero(~inside), np.flatnonzero(inside))


def _without_twins(faces: FaceSet, train: NDArray[np.int64], validation: NDArray[np.int64]) -> Split:
    train_hashes, validation_hashes = _hashes(faces, train), _hashes(faces, validation)
    seen, held_out = set(train_hashes), set(validation_hashes)
    keep = np.array([h not in held_out for h in train_hashes], bool)
    if not keep.any() or not len(validation):
        raise InputError(f"{faces.name}: {keep.sum()} training and {len(validation)} validation images are too few")
    return Split(train[keep], validation, np.array([h in seen for h in validation_hashes], bool))


def _hashes(faces: FaceSet, rows: NDArray[np.int64]) -> list[str]:
    """A hash of each image's pixels.

    Raises:
        InputError: images cannot be read; names some and says how many there are, so that one pass finds them all.
    """
    found, problems = [], []
    for row in rows:
        try:
            found += faces.pixel_hashes(np.array([row]))
        except InputError as error:
            problems.append(str(error))
    if not problems:
        return found
    if len(problems) == 1:
        raise InputError(f"{problems[0]}; replace it, or take it out of the data set")
    shown = "; ".join(problems[:_SHOWN]) + ("; ..." if len(problems) > _SHOWN else "")
    raise InputError(f"{len(problems)} images cannot be read: {shown}; replace them, or take them out of the data set")


def twins_in_training(faces: FaceSet, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of these rows has a pixel-equal twin among the rows of the split "train".

    An image that cannot be read has none: whoever needs it will say so.
    """
    seen = {_hash_if_readable(faces, row) for row in faces.indices("train")} - {None}
    return np.array([_hash_if_readable(faces, row) in seen for row in rows], bool)


def _hash_if_readable(faces: FaceSet, row: np.int64) -> str | None:
    try:
        return faces.pixel_hashes(np.array([row]))[0]
    except InputError:
        return None


def fold_of(faces: FaceSet, folds: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Fold (N,) of every row: 0 to ``folds`` - 1, each class alike, or, where rows have groups, by whole groups.

    Groups go to the folds in turns in the order of their names (CK+'s protocol: subjects by number).

    Raises:
        UsageError: fewer than 2 folds, or more folds than there are groups or rows to go around.
    """
    units = len(faces) if faces.groups is None else len(np.unique(faces.groups))
    if not 2 <= folds <= units:
        raise UsageError(f"{folds} folds: expected 2 to {units}")
    if faces.groups is not None:
        return np.unique(faces.groups, return_inverse=True)[1].astype(np.int64) % folds
    order = np.random.default_rng(seed).permutation(len(faces))
    # Rows of a class one after another, dealt out in turns.
    dealt = order[np.argsort(faces.labels[order], kind="stable")]
    fold = np.empty(len(faces), np.int64)
    fold[dealt] = np.arange(len(faces)) % folds
    return fold


def _whole_groups(
    groups: NDArray[np.str_], drawn: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nobody is in both parts."""
    names = np.unique(groups[drawn])
    held = np.random.default_rng(seed).permutation(names)[: max(1, round(fraction * len(names)))]
    inside = np.isin(groups[drawn], held)
    return drawn[~inside], drawn[inside]


def _stratified(
    faces: FaceSet, drawn: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    held = []
    for k in range(len(faces.classes)):
        rows = rng.permutation(drawn[faces.labels[drawn] == k])
        held.append(rows[: max(1, round(fraction * len(rows)))] if len(rows) > 1 else rows[:0])
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(drawn, validation), validation
