"""Readers of labelled faces: every layout, every way in which it can be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from poster_edge.data.faces import load_faces
from poster_edge.data.split import split_faces
from poster_edge.errors import InputError

CLASSES = np.array(["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"])


def packed(path: Path, images: list[np.ndarray], rows: list[int], parts: list[int], **changes: Any) -> Path:
    files = [cv2.imencode(".jpg", im)[1] for im in images]
    entries: dict[str, Any] = {
        "jpeg": np.concatenate(files),
        "offsets": np.cumsum([0, *(len(f) for f in files)]),
        "labels": np.array(rows, np.uint8),
        "split": np.array(parts, np.uint8),
        "split_names": np.array(["Training", "PublicTest"]),
        "classes": CLASSES,
        **changes,
    }
    np.savez(path, **{k: v for k, v in entries.items() if v is not None})
    return path


def gray(value: int, size: int = 48) -> np.ndarray:
    return np.full((size, size), value, np.uint8)


def test_packed_layout(tmp_path: Path) -> None:
    faces = load_faces(packed(tmp_path / "d.npz", [gray(10), gray(90), gray(200)], [0, 3, 6], [0, 0, 1]))
    assert (len(faces), faces.classes[3], faces.is_gray, faces.dataset) == (3, "happy", True, "fer2013")
    assert abs(int(faces.read(2)[0, 0]) - 200) <= 2
    assert faces.indices("validation").tolist() == [2]


def test_plain_arrays_and_folders_agree(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, 20, 20, 3), dtype=np.uint8)
    labels = np.array([0, 0, 1, 1, 1, 0])
    np.savez(tmp_path / "plain.npz", images=images, labels=labels, classes=np.array(["Happiness", "sad "]))
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "folders" / ["Happiness", "sad"][label]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    (tmp_path / "folders" / "sad" / "notes.txt").write_text("not an image")
    arrays, folders = load_faces(tmp_path / "plain.npz"), load_faces(tmp_path / "folders")
    assert arrays.classes == folders.classes == ("happy", "sad")
    assert len(folders) == 6
    assert np.array_equal(folders.read(0), images[0])
    assert np.array_equal(arrays.squares([0, 1], 20, "rgb")[1], images[1][:, :, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 9, 1], np.uint8)}, "label 9 of row 1 is outside 0..6"),
        ({"offsets": np.array([0, 5])}, "'offsets' does not fit"),
        ({"offsets": None}, "entries missing: offsets"),
        ({"split": np.array([0, 5, 1], np.uint8)}, "'split' does not fit"),
        ({"split": np.array([0, -1, 1])}, "'split' does not fit"),
        ({"split": np.array([0.0, 1.0, 1.0])}, "'split' does not fit"),
        ({"offsets": np.array([-5, 0, 5, 9])}, "'offsets' does not fit"),
        ({"labels": np.array(["angry", "sad", "happy"])}, "'labels' must be whole numbers"),
        ({"labels": np.array([0.0, np.nan, 1.0])}, "'labels' must be whole numbers"),
    ],
    ids=["label", "offsets", "missing", "split", "split below 0", "split of floats", "offset", "words", "nan"],
)
def test_inconsistent_packed_files(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = packed(tmp_path / "d.npz", [gray(1), gray(2), gray(3)], [0, 1, 2], [0, 0, 1], **changes)
    with pytest.raises(InputError, match=message):
        load_faces(path)


def test_one_class_under_two_spellings_in_a_file(tmp_path: Path) -> None:
    names = np.array(["happy", "Happiness", "sad"])
    np.savez(tmp_path / "d.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.arange(3), classes=names)
    with pytest.raises(InputError, match="names a class twice: happy, Happiness, sad"):
        load_faces(tmp_path / "d.npz")


@pytest.mark.parametrize(("broken", "is_gray"), [((), False), ((0, 1), False), ((1, 2, 3), True)])
def test_gray_or_colour_is_not_for_the_first_image_to_say(
    tmp_path: Path, broken: tuple[int, ...], is_gray: bool
) -> None:
    (tmp_path / "happy").mkdir()
    for i, image in enumerate([gray(9), np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8), gray(7)]):
        assert cv2.imwrite(str(tmp_path / "happy" / f"{i}.png"), image)
    for i in broken:
        (tmp_path / "happy" / f"{i}.png").write_text("no image")
    assert load_faces(tmp_path).is_gray == is_gray


@pytest.mark.parametrize(("suffix", "kind"), [(".tiff", np.uint8), (".TIF", np.uint16)])
def test_tiff_images_are_images(tmp_path: Path, suffix: str, kind: type) -> None:
    """As JAFFE's are; 16 bits become 8."""
    picture = (np.arange(48 * 48).reshape(48, 48) % 251).astype(np.uint8)
    for name in ("happy", "sad"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / f"a{suffix}"), picture.astype(kind) * (257 if kind == np.uint16 else 1))
    faces = load_faces(tmp_path)
    assert faces.classes == ("happy", "sad")
    assert faces.is_gray
    assert np.array_equal(faces.read(1), picture)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy" / "0.png").write_text("no image")
    with pytest.raises(InputError, match=r"0\.png: not a readable image"):
        _ = load_faces(tmp_path).is_gray


def test_labels_without_names_beyond_the_convention(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array([0, 7]))
    with pytest.raises(InputError, match="no 'classes' entry"):
        load_faces(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/happy", "train/sad", "val/happy", "val/sad", "valid/happy"], "valid and val are the same split twice"),
        (["train/happy", "val/happy", "val/sad"], "train has no folder of sad, which another split of it has"),
        (["happy", "sad", "empty/"], "empty has no image in it"),
    ],
    ids=["two", "lost", "empty"],
)
def test_class_folders_that_lack_something(tmp_path: Path, folders: list[str], message: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        if not folder.endswith("/"):
            assert cv2.imwrite(str(tmp_path / folder / "a.png"), gray(len(folder)))
    with pytest.raises(InputError, match=message):
        load_faces(tmp_path)


def test_classes_nothing_is_learned_from(tmp_path: Path) -> None:
    faces = load_faces(packed(tmp_path / "d.npz", [gray(1), gray(2), gray(3)], [0, 2, 1], [0, 0, 1]))
    assert split_faces(faces).unseen(faces) == ["disgust", "happy", "neutral", "sad", "surprise"]
    assert split_faces(faces).unseen(replace(faces, classes=faces.classes[:3])) == ["disgust"]


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.array([{"a": 1}], dtype=object), labels=np.array([0]))
    with pytest.raises(InputError, match="not a readable"):
        load_faces(tmp_path / "d.npz")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"], ids=["empty", "text", "torn"])
def test_files_that_are_no_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(InputError, match="d.npz"):
        load_faces(tmp_path / "d.npz")


def test_empty_folder_and_missing_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected .*/CLASS/"):
        load_faces(tmp_path)
    with pytest.raises(InputError, match="no such data set"):
        load_faces(tmp_path / "absent.npz")


def test_twins_of_validation_rows_leave_training(tmp_path: Path) -> None:
    images = [gray(10), gray(50), gray(90), gray(50), gray(130)]
    faces = load_faces(packed(tmp_path / "d.npz", images, [0, 1, 2, 1, 3], [0, 0, 0, 1, 1]))
    split = split_faces(faces)
    assert split.train.tolist() == [0, 2]
    assert split.validation.tolist() == [3, 4]
    assert split.twins.tolist() == [True, False]


def test_stratified_draw_is_seeded_and_disjoint(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "d.npz", images=rng.integers(0, 255, (60, 8, 8), dtype=np.uint8), labels=np.arange(60) % 3)
    faces = load_faces(tmp_path / "d.npz")
    first, again, other = split_faces(faces, seed=1), split_faces(faces, seed=1), split_faces(faces, seed=2)
    assert first.validation.tolist() == again.validation.tolist() != other.validation.tolist()
    assert not set(first.train) & set(first.validation)
    assert np.bincount(faces.labels[first.validation]).tolist() == [2, 2, 2]


def test_fer2013_itself(shared: Path) -> None:
    """The counts that the data set's description gives, twins included."""
    faces = load_faces(shared / "data" / "fer2013_train_valid.npz")
    assert np.bincount(faces.labels).tolist() == [4462, 492, 4593, 8110, 5572, 5483, 3586]
    split = split_faces(faces)
    assert (len(split.validation), int(split.twins.sum())) == (3589, 280)
    assert len(faces.indices("train")) == 28709
    assert len(split.train) < 28709 - 280
