"""A part of FER2013 for trainings that must be short: some training images, and the validation split or some of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def chosen_rows(split: NDArray[np.integer], names: list[str], images: int, validation: int | None) -> NDArray[np.int64]:
    """Row numbers: so many of the split "Training" and of "PublicTest" (None: all), at random (seeded)."""
    rng = np.random.default_rng(0)
    rows = []
    for name, count in (("Training", images), ("PublicTest", validation)):
        there = np.flatnonzero(split == names.index(name))
        rows.append(np.sort(rng.permutation(there)[:count]))
    return np.concatenate(rows)


def write_subset(data: Path, landmarks: Path, folder: Path, images: int, validation: int | None) -> tuple[Path, Path]:
    """Write both files for some rows into ``folder``, unless they are there; returns their paths.

    Args:
        data: ``.npz`` with ``split`` and ``split_names``, images packed as JPEG or as an array.
        landmarks: ``.npz`` of the same rows.
        folder: made if missing; one folder holds one choice of numbers.
        images: of the training split; more than there are: all.
        validation: of the validation split; None: all.
    """
    name = f"{data.stem}-{images}" + ("" if validation is None else f"-{validation}")
    written = folder / f"{name}.npz", folder / f"{name}-landmarks.npz"
    if all(p.is_file() for p in written):
        return written
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(data, allow_pickle=False) as arrays:
        entries = {key: arrays[key] for key in arrays.files}
    rows = chosen_rows(entries["split"], [str(n) for n in entries["split_names"]], images, validation)
    count = len(entries["split"])
    if "jpeg" in entries:
        jpeg, offsets = entries.pop("jpeg"), entries.pop("offsets")
        parts = [jpeg[offsets[i] : offsets[i + 1]] for i in rows]
        packed = {"jpeg": np.concatenate(parts), "offsets": np.cumsum([0, *map(len, parts)])}
    else:
        packed = {}
    np.savez(written[0], **packed, **_of_rows(entries, rows, count))
    with np.load(landmarks, allow_pickle=False) as arrays:
        np.savez(written[1], **_of_rows({key: arrays[key] for key in arrays.files}, rows, count))
    return written


def _of_rows(entries: dict[str, NDArray], rows: NDArray[np.int64], count: int) -> dict[str, NDArray]:
    """Entries with a value for each row, cut to some rows; the others as they are."""
    return {k: v[rows] if v.shape[:1] == (count,) else v for k, v in entries.items()}
