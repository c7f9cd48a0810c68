"""AffectNet in its three layouts: the csv files, annotations in ``.npy`` files, numbered folders.

- ``training.csv`` and ``validation.csv``, or the same in ``Manually_Annotated_file_lists``, beside
  ``Manually_Annotated_Images`` (or ``…/images`` parts): paths, face boxes and codes; faces are cut out along their
  boxes;
- ``train_set`` and ``val_set`` with ``images/N.jpg`` and ``annotations/N_exp.npy``;
- ``train`` and ``val`` with folders ``0`` to ``7``.

Codes: 0 neutral, 1 happy, 2 sad, 3 surprise, 4 fear, 5 disgust, 6 angry, 7 contempt; 8 none, 9 uncertain and
10 no face are left out, and 7 too when seven classes are asked for.

Source: Mollahosseini et al., "AffectNet: A Database for Facial Expression, Valence, and Arousal Computing
in the Wild" (2017), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.faces import FaceSet
from poster_edge.data.layouts.tables import (
    coded_folders,
    face_set,
    integer,
    must_exist,
    names_in,
    read_image,
    rows,
)
from poster_edge.errors import InputError
from poster_edge.labels import LABEL_SETS

_TABLES = {"training.csv": "train", "validation.csv": "validation"}
_SETS = {"train_set": "train", "val_set": "validation"}
_PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_CONTEMPT, _LAST_CODE = 7, 10
_COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "expression")
#: Where the tables lie: as people unpack them, and as the archive has them.
_LISTS = (".", "Manually_Annotated_file_lists")
_IMAGES = ("Manually_Annotated_Images", "Manually_Annotated", "Manually_Annotated_compressed", "images", ".")


@dataclass(frozen=True)
class Entry:
    """One image: file, code, role, and the face's box (x, y, w, h) in pixels where only a part is the face."""

    file: Path
    code: int
    role: str
    box: tuple[int, int, int, int] | None = None


def fits(path: Path) -> bool:
    """Whether a folder has one of the three layouts."""
    return path.is_dir() and _layout(path) is not None


def _layout(path: Path) -> Callable[[Path], Iterator[Entry]] | None:
    if any(_table(path, name).is_file() for name in _TABLES):
        return _from_tables
    if any((path / name / "annotations").is_dir() for name in _SETS):
        return _from_arrays
    return _from_folders if _numbered(path) else None


def _table(path: Path, name: str) -> Path:
    """A table of a data set; where it is nowhere, its usual place."""
    return next((f for folder in _LISTS if (f := path / folder / name).is_file()), path / name)


def _numbered(path: Path) -> bool:
    """Whether the parts hold folders named by codes from 0 on, and nothing else."""
    names = set().union(*(names_in(path / name) for name in _PARTS))
    return "0" in names and all(n.isdecimal() for n in names)


def read(path: Path, dataset: str | None) -> FaceSet:
    """Faces of AffectNet.

    Args:
        path: its folder.
        dataset: "affectnet8" or "affectnet7"; None: with contempt where it has any.

    Raises:
        InputError: a file is missing or a row is wrong; says which.
    """
    layout = _layout(path)
    assert layout is not None
    entries = list(layout(path))
    dataset = dataset or ("affectnet8" if any(e.code == _CONTEMPT for e in entries) else "affectnet7")
    classes = len(LABEL_SETS[dataset].classes)
    kept = [e for e in entries if e.code < classes]
    must_exist(path, [e.file for e in kept], "unpack AffectNet's archives again")
    labels, roles = [e.code for e in kept], [e.role for e in kept]
    names, left_out = [e.file.name for e in kept], len(entries) - len(kept)
    return face_set(path, dataset, labels, roles, lambda i: _cut(kept[i]), left_out=left_out, names=names)


def _cut(entry: Entry) -> NDArray[np.uint8]:
    image = read_image(entry.file)
    if entry.box is None:
        return image
    x, y, w, h = entry.box
    face = image[max(y, 0) : y + h, max(x, 0) : x + w]
    if not face.size:
        raise InputError(f"{entry.file}: the face's box {entry.box} lies outside of the image {image.shape[1::-1]}")
    return face


def _from_tables(path: Path) -> Iterator[Entry]:
    folders = [path / name for name in _IMAGES if (path / name).is_dir()]
    # What a message names where nothing is found.
    usual = folders[0] if len(folders) > 1 else path / _IMAGES[0]
    for name, role in _TABLES.items():
        table = _table(path, name)
        if not table.is_file():
            continue
        for line, row in rows(table, _COLUMNS, "expected AffectNet's own csv files"):
            where = f"{table}, line {line}"
            relative = Path(row["subdirectory_filepath"])
            if relative.is_absolute() or ".." in relative.parts or not relative.name:
                raise InputError(f"{where}: {str(relative)!r} is no path inside the data set")
            x, y, w, h = (
                integer(row[f"face_{part}"], where, -100_000, 100_000) for part in ("x", "y", "width", "height")
            )
            code = integer(row["expression"], where, 0, _LAST_CODE)
            file = next((f / relative for f in folders if (f / relative).is_file()), usual / relative)
            yield Entry(file, code, role, (x, y, w, h))


def _from_arrays(path: Path) -> Iterator[Entry]:
    for name, role in _SETS.items():
        annotations = path / name / "annotations"
        if not annotations.is_dir():
            continue
        for file in sorted(annotations.glob("*_exp.npy"), key=lambda f: (len(f.name), f.name)):
            yield Entry(_image_of(path / name / "images", file), _code(file), role)


def _image_of(images: Path, annotation: Path) -> Path:
    stem = annotation.name.removesuffix("_exp.npy")
    return next(
        (f for s in (".jpg", ".jpeg", ".png") if (f := images / f"{stem}{s}").is_file()), images / f"{stem}.jpg"
    )


def _code(file: Path) -> int:
    """The code that a ``.npy`` file holds, as text or as a number; nothing is unpickled."""
    try:
        value = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: not a readable .npy file of one code; unpack AffectNet's archives again") from error
    if value.size != 1:
        raise InputError(f"{file}: expected one code, got {value.size} values")
    return integer(str(value.item()), str(file), 0, _LAST_CODE)


def _from_folders(path: Path) -> Iterator[Entry]:
    for name, folders in coded_folders(path, list(_PARTS)).items():
        for code, files in folders.items():
            where = str(path / name / code)
            yield from (Entry(file, integer(code, where, 0, _LAST_CODE), _PARTS[name]) for file in files)
