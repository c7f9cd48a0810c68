"""Lists of occluded and turned faces, in each form in which they are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poster_edge.data.faces import FaceSet
from poster_edge.data.subsets import key_of, read_subset
from poster_edge.errors import InputError


def faces(*names: str, known: bool = True) -> FaceSet:
    labels = np.zeros(len(names), np.int64)
    return FaceSet(
        "some",
        ("happy", "sad"),
        labels,
        lambda i: np.zeros((8, 8), np.uint8),
        np.full(len(names), ""),
        names=names if known else None,
    )


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("test_0003_aligned 3 4", "test_0003_aligned"),
        ("0/test_0004_aligned.jpg", "test_0004_aligned"),
        ("1_fer0034656.png 8 0", "fer0034656"),
        ("0/fer0032226.jpg", "fer0032226"),
        ("val/0/bc9ad400db82eca1882b/", "bc9ad400db82eca1882b"),
        ("7\\0a1b.2c.jpg", "0a1b.2c"),
        ("12_my_photo.jpeg", "12_my_photo"),
    ],
)
def test_published_forms(line: str, key: str) -> None:
    assert key_of(line) == key


def test_rows_are_found_and_missing_ones_counted(tmp_path: Path) -> None:
    path = tmp_path / "occlusion.txt"
    path.write_text("# occluded\n3/b.png\n\nc 1 2\nnot_here.jpg\nc 1 2\n")
    subset = read_subset(path, faces("a.jpg", "b.jpg", "c.jpg"))
    assert subset.member.tolist() == [False, True, True]
    assert (subset.listed, subset.missing) == (3, 1)


@pytest.mark.parametrize(
    ("text", "known", "message"),
    [
        ("x.jpg\n", True, "none of its 1 images, such as x, is in some, which has a and others"),
        ("\n# nothing\n", True, "no image in it"),
        ("a.jpg\n", False, "does not know the names of its images"),
    ],
)
def test_what_cannot_be_applied_is_refused(tmp_path: Path, text: str, known: bool, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_subset(path, faces("a.jpg", known=known))


def test_an_unreadable_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.txt: not a readable list"):
        read_subset(tmp_path / "gone.txt", faces("a.jpg"))
