"""The images that calibration looks at: a fixed, small, stratified sample, read one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from poster_edge.config import Preprocess
from poster_edge.data.faces import FaceSet
from poster_edge.data.preprocess import to_input
from poster_edge.errors import InputError


@dataclass(frozen=True)
class CalibrationSet:
    """Face crops to calibrate on, decoded on demand.

    Attributes:
        name: where they came from, for messages and records.
        count: how many there are.
        read: 0 … count - 1 -> crop, uint8 (h, w, 3) BGR or (h, w) gray.
        labels: (count,) indices into ``classes``, or None where they are not known.
        classes: names of the labels.
    """

    name: str
    count: int
    read: Callable[[int], NDArray[np.uint8]]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]

    def digest(self) -> str:
        """SHA-256 over the crops' shapes and pixels, in order, in hexadecimal."""
        total = hashlib.sha256()
        for index in range(self.count):
            crop = self.read(index)
            total.update(str(crop.shape).encode() + crop.tobytes())
        return total.hexdigest()

    def batches(self, preprocess: Preprocess, size: int) -> Iterator[NDArray[np.float32]]:
        """Yield the network's inputs, (size, 3, S, S) each, the last one with what is left."""
        for start in range(0, self.count, size):
            indices = range(start, min(start + size, self.count))
            yield to_input([self.read(i) for i in indices], preprocess)


def sample_rows(
    labels: NDArray[np.int64] | None,
    total: int,
    count: int,
    seed: int,
    *,
    usable: Callable[[int], bool] = lambda row: True,
) -> NDArray[np.int64]:
    """Draw rows so that every class is as well represented as every other, as far as its rows last.

    The classes take turns, so any beginning of the result is stratified too, and equals what a
    smaller ``count`` gives.

    Args:
        labels: (total,) classes; None: all rows alike.
        total: number of rows.
        count: rows to draw; more than there are: all of them.
        seed: of the draw; the same seed gives the same rows.
        usable: asked of a row when its turn comes; for one refused the next of its class is asked.
    """
    groups = np.zeros(total, np.int64) if labels is None else labels
    return np.fromiter(islice(_in_turns(groups, np.random.default_rng(seed), usable), count), np.int64)


def _in_turns(groups: NDArray[np.int64], rng: np.random.Generator, usable: Callable[[int], bool]) -> Iterator[int]:
    queues = {int(k): iter(rng.permutation(np.flatnonzero(groups == k)).tolist()) for k in np.unique(groups)}
    while queues:
        # A new order each round, or the first classes would get all that does not divide evenly.
        for k in rng.permutation(sorted(queues)).tolist():
            row = next(filter(usable, queues[k]), None)
            if row is None:
                del queues[k]
            else:
                yield row


def from_faces(
    faces: FaceSet,
    count: int,
    seed: int,
    *,
    rows: NDArray[np.int64] | None = None,
    notify: Callable[[str], None] | None = None,
) -> CalibrationSet:
    """Draw a calibration set, stratified by class, from labelled faces.

    Where the file has splits only training rows are drawn, and none whose pixels equal those of a row
    of another split: such rows judge the result.

    Args:
        faces: the whole set.
        count: images wanted; there may be fewer.
        seed: of the draw.
        rows: draw from these rows, whatever their split, instead.
        notify: told of each image that cannot be read, which is passed over; without it that is an error.

    Raises:
        InputError: nothing is left to draw from.
    """
    held_out: set[str] = set()
    if rows is None:
        rows, held_out = _training_rows(faces)

    def usable(position: int) -> bool:
        try:
            return faces.pixel_hashes(rows[position : position + 1])[0] not in held_out
        except InputError as error:
            if notify is None:
                raise
            notify(f"{error}; passed over")
            return False

    chosen = rows[sample_rows(faces.labels[rows], len(rows), count, seed, usable=usable)]
    if not len(chosen):
        raise InputError(f"{faces.name}: none of {len(rows)} images can be used for calibration")
    return CalibrationSet(
        faces.name, len(chosen), lambda i: faces.read(int(chosen[i])), faces.labels[chosen], faces.classes
    )


def _training_rows(faces: FaceSet) -> tuple[NDArray[np.int64], set[str]]:
    """Rows to draw from, and the hashes of those in other splits."""
    if not (faces.roles != "").any():
        return np.arange(len(faces)), set()
    train = faces.indices("train")
    if not len(train):
        splits = ", ".join(sorted(set(faces.roles.tolist())))
        raise InputError(f"{faces.name} has no training images, only {splits}: those judge the calibration's result")
    return train, set(faces.pixel_hashes(np.flatnonzero(faces.roles != "train")))
