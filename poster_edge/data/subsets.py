"""Subsets of a data set by lists of image names: occluded faces, turned faces.

The lists are those of Wang et al., "Region Attention Networks for Pose and Occlusion Robust Facial Expression
Recognition" (2020), published for RAF-DB, FERPlus and AffectNet.  A line begins with an image, written in one
of their ways, and may go on with numbers that are not read here::

    test_0003_aligned 3 4                 RAF-DB, occlusion: label, kind of occlusion
    0/test_0004_aligned.jpg               RAF-DB, pose
    1_fer0034656.png 8 0                  FERPlus, occlusion: the label stands before the name
    val/0/bc9ad400db82eca1882b11c9/       AffectNet, occlusion
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.faces import FACE_SUFFIXES, FaceSet
from poster_edge.errors import InputError

#: FERPlus' lists put a label before the name.
_LABELLED = re.compile(r"\d+_(?=fer\d)")
_LONGEST = 50_000_000


@dataclass(frozen=True)
class Subset:
    """Rows of a face set that a list names.

    Attributes:
        member: (N,) whether each row of the face set is listed.
        listed: different images in the list.
        missing: those that the face set does not have.
    """

    member: NDArray[np.bool_]
    listed: int
    missing: int


def read_subset(path: Path, faces: FaceSet) -> Subset:
    """Find the rows that a list names; names are compared without folders and suffixes.

    Args:
        path: text file, an image to a line; empty lines and lines that begin with '#' are passed over.
        faces: must know the names of its images.

    Raises:
        InputError: the list cannot be read or is empty, the face set has no names, or none of them is listed.
    """
    if faces.names is None:
        raise InputError(
            f"{faces.name} does not know the names of its images, so {path} cannot be applied; give the data set in "
            "its published layout, or class folders"
        )
    listed = {key for line in _lines(path) if (key := key_of(line))}
    if not listed:
        raise InputError(f"{path}: no image in it; expected one name to a line, such as test_0003_aligned.jpg")
    keys = [key_of(name) for name in faces.names]
    member = np.array([key in listed for key in keys])
    if not member.any():
        raise InputError(
            f"{path}: none of its {len(listed)} images, such as {min(listed)}, is in {faces.name}, which has "
            f"{keys[0]} and others: the list is another data set's"
        )
    return Subset(member, len(listed), len(listed - set(keys)))


def key_of(line: str) -> str:
    """What identifies the image of a line or of a file name: no folder, no suffix, no label before it."""
    first = line.split()[0] if line.split() else ""
    name = PurePosixPath(first.replace("\\", "/")).name
    stem = name[: -len(suffix)] if (suffix := PurePosixPath(name).suffix).lower() in FACE_SUFFIXES else name
    return _LABELLED.sub("", stem, count=1)


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _LONGEST:
            raise InputError(f"{path}: more than {_LONGEST // 10**6} MB, too long for a list of images")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list ({error})") from error
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
