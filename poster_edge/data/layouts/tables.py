"""What the readers of published layouts share: tables of text, image files, rows that share labels."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.faces import FACE_SUFFIXES, FaceSet, decode
from poster_edge.errors import InputError
from poster_edge.labels import LABEL_SETS

#: A row of FER2013's pixels has some 9,000 characters.
_LONGEST_FIELD = 1 << 20


def rows(path: Path, needed: Sequence[str], remedy: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a csv file with a header; names are compared without case and spaces.

    Raises:
        InputError: unreadable, or columns are missing; ends with ``remedy``.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [n for n in needed if n.lower() not in header]
            if missing:
                raise InputError(f"{path}: columns missing: {', '.join(missing)}; {remedy}")
            for row in reader:
                if row:
                    # A cut line has fewer fields; what is missing reads as empty and is refused by value.
                    yield reader.line_num, dict(zip(header, [*row, *[""] * (len(header) - len(row))], strict=False))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable csv file ({error}); {remedy}") from error


def integer(text: str, where: str, low: int, high: int) -> int:
    """A whole number within bounds.

    Raises:
        InputError: names the place, the value and the bounds.
    """
    try:
        value = int(text)
    except ValueError:
        raise InputError(f"{where}: {text!r} is no whole number") from None
    if not low <= value <= high:
        raise InputError(f"{where}: {value} is outside {low}..{high}")
    return value


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode one file.

    Raises:
        InputError: missing, unreadable or no image.
    """
    try:
        return decode(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def must_exist(root: Path, files: Sequence[Path], remedy: str) -> None:
    """Refuse a list with files that are not there, before anything is decoded.

    Raises:
        InputError: how many are missing, an example, and the remedy.
    """
    missing = [f for f in files if not f.is_file()]
    if missing:
        raise InputError(
            f"{root}: {len(missing)} of {len(files)} listed images are missing, such as {missing[0]}; {remedy}"
        )


def coded_folders(root: Path, parts: Sequence[str]) -> dict[str, dict[str, list[Path]]]:
    """Image files of the folders named by codes in each of some splits: split -> code -> files.

    Raises:
        InputError: a folder holds no image, or a split lacks a folder that another one has.
    """
    found = {
        part: {
            folder.name: sorted(f for f in folder.iterdir() if f.suffix.lower() in FACE_SUFFIXES)
            for folder in sorted((root / part).iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
        }
        for part in parts
        if (root / part).is_dir()
    }
    codes = sorted({code for folders in found.values() for code in folders})
    for part, folders in found.items():
        if lost := [code for code in codes if not folders.get(code)]:
            raise InputError(f"{root / part / lost[0]} is missing or holds no image; unpack the data set again")
    return found


def names_in(folder: Path) -> set[str]:
    """Names of the folders in a folder, but hidden ones; none where it is not there."""
    return {d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith(".")} if folder.is_dir() else set()


def face_set(
    root: Path,
    dataset: str,
    labels: Sequence[int],
    roles: Sequence[str],
    read: Callable[[int], NDArray[np.uint8]],
    *,
    soft: NDArray[np.float32] | None = None,
    groups: Sequence[str] | None = None,
    left_out: int = 0,
    names: Sequence[str] | None = None,
) -> FaceSet:
    """Faces with the label order of a known data set.

    Raises:
        InputError: there are none.
    """
    if not len(labels):
        raise InputError(f"{root}: laid out like {dataset}, but no labelled image was found in it")
    return FaceSet(
        root.name or str(root),
        LABEL_SETS[dataset].classes,
        np.asarray(labels, np.int64),
        read,
        np.asarray(roles, dtype="U10"),
        soft=soft,
        groups=None if groups is None else np.asarray(groups),
        left_out=left_out,
        known_as=dataset,
        names=None if names is None else tuple(names),
    )
