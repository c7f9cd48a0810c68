"""Data sets in their published layouts: small copies are written, read, and damaged in every way that occurs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from poster_edge.data.faces import load_faces
from poster_edge.data.layouts import ferplus
from poster_edge.data.split import fold_of, split_faces, split_fold
from poster_edge.errors import InputError, UsageError
from poster_edge.labels import LABEL_SETS


def picture(path: Path, value: int, size: tuple[int, int] = (10, 10), *, gray: bool = False) -> Path:
    """An image of one value, with a mark in its corner so that orientation shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), value, np.uint8)
    image[0, 0] = 255
    assert cv2.imwrite(str(path), image[:, :, 0] if gray else image)
    return path


def names(faces_path: Path, **options: str) -> list[str]:
    """Class name of every row."""
    faces = load_faces(faces_path, **options)
    return [faces.classes[k] for k in faces.labels]


# RAF-DB ------------------------------------------------------------------------------------------------------------


def rafdb(root: Path) -> Path:
    lines = ["train_00001.jpg 1", "train_00002.jpg 4", "train_00003.jpg 7", "test_0001.jpg 6"]
    for i, line in enumerate(lines):
        name = line.split()[0].replace(".jpg", "_aligned.jpg")
        picture(root / "Image" / "aligned" / name, 20 * i, (100, 100))
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    return root


class TestRafDb:
    def test_published_layout(self, tmp_path: Path) -> None:
        faces = load_faces(rafdb(tmp_path / "basic"))
        assert (faces.dataset, faces.classes) == ("rafdb", LABEL_SETS["rafdb"].classes)
        assert names(tmp_path / "basic") == ["surprise", "happy", "neutral", "angry"]
        assert faces.roles.tolist() == ["train", "train", "train", "test"]
        assert abs(int(faces.read(2)[50, 50, 0]) - 40) <= 2
        assert names(tmp_path) == names(tmp_path / "basic"), "its parent folder will do"
        assert faces.names == tuple(
            f"{n}_aligned.jpg" for n in ("train_00001", "train_00002", "train_00003", "test_0001")
        )

    def test_layout_found_in_practice(self, tmp_path: Path) -> None:
        for part in ("train", "test"):
            for code in range(1, 8):
                picture(tmp_path / "DATASET" / part / str(code) / f"{part}_{code}_aligned.jpg", code)
        faces = load_faces(tmp_path)
        assert [faces.classes[k] for k in faces.labels[faces.roles == "test"]] == list(LABEL_SETS["rafdb"].classes)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda r: shutil.rmtree(r / "test" / "3"), r"test/3 is missing or holds no image"),
            (lambda r: next((r / "train" / "3").iterdir()).unlink(), r"train/3 is missing or holds no image"),
            (lambda r: shutil.rmtree(r / "test"), r"test is missing; RAF-DB comes with train and test"),
            (lambda r: (r / "train" / "8").mkdir(), r"train/8: the code 8 is outside 1\.\.7"),
        ],
        ids=["no folder", "empty folder", "no part", "code"],
    )
    def test_damage_of_the_layout_found_in_practice(
        self, tmp_path: Path, damage: Callable[[Path], object], message: str
    ) -> None:
        for part in ("train", "test"):
            for code in range(1, 8):
                picture(tmp_path / part / str(code) / f"{code}.jpg", code)
        damage(tmp_path)
        with pytest.raises(InputError, match=message):
            load_faces(tmp_path)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda r: (r / "EmoLabel" / "list_patition_label.txt").unlink(), "cannot be read"),
            (
                lambda r: next((r / "Image" / "aligned").glob("train_00002*")).unlink(),
                "1 of 4 listed images are missing",
            ),
            (lambda r: (r / "Image").rename(r / "Picture"), r"aligned\.zip"),
            (
                lambda r: append(r / "EmoLabel" / "list_patition_label.txt", "train_9.jpg 8"),
                "line 5: 8 is outside 1..7",
            ),
            (lambda r: append(r / "EmoLabel" / "list_patition_label.txt", "train_9.jpg"), "line 5: expected"),
            (lambda r: append(r / "EmoLabel" / "list_patition_label.txt", "../train_9.jpg 3"), "begins neither"),
            (lambda r: append(r / "EmoLabel" / "list_patition_label.txt", "valid_9.jpg 3"), "begins neither"),
        ],
        ids=["no list", "no image", "no folder", "code", "no code", "path", "part"],
    )
    def test_damage(self, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
        damage(rafdb(tmp_path))
        with pytest.raises(InputError, match=message):
            load_faces(tmp_path)

    def test_an_unreadable_image_is_named(self, tmp_path: Path) -> None:
        file = next((rafdb(tmp_path) / "Image" / "aligned").glob("train_00001*"))
        file.write_bytes(b"\xff\xd8 torn")
        with pytest.raises(InputError, match=r"train_00001_aligned\.jpg: not a readable image"):
            load_faces(tmp_path).read(0)

    def test_one_pass_finds_all_unreadable_images(self, tmp_path: Path) -> None:
        files = sorted((rafdb(tmp_path) / "Image" / "aligned").glob("train_*"))
        files[0].write_bytes(b"\xff\xd8 torn")
        with pytest.raises(InputError, match=r"train_00001_aligned\.jpg: not a readable image; replace it"):
            split_faces(load_faces(tmp_path))
        files[2].write_bytes(b"")
        with pytest.raises(InputError, match=r"2 images cannot be read: .*00001.*; .*00003.*; replace them"):
            split_faces(load_faces(tmp_path))

    def test_validation_is_never_drawn_from_the_test_images(self, tmp_path: Path) -> None:
        lines = [f"train_{i:05}.jpg {1 + i % 2}" for i in range(20)] + [f"test_{i:04}.jpg 1" for i in range(20)]
        for i, line in enumerate(lines):
            picture(tmp_path / "Image" / "aligned" / line.split()[0].replace(".jpg", "_aligned.jpg"), 5 * i)
        (tmp_path / "EmoLabel").mkdir()
        (tmp_path / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))
        split = split_faces(load_faces(tmp_path))
        assert len(split.validation) == 2
        assert max(split.validation.max(), split.train.max()) < 20


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


# FER2013 and FERPlus -----------------------------------------------------------------------------------------------


def fer2013(path: Path, emotions: tuple[int, ...], usages: tuple[str, ...]) -> Path:
    lines = ["emotion,pixels,Usage"]
    for i, (emotion, usage) in enumerate(zip(emotions, usages, strict=True)):
        lines.append(f"{emotion},{' '.join([str(i), *['7'] * 2303])},{usage}")
    path.write_text("\n".join(lines) + "\n")
    return path


class TestFer2013:
    USAGES = ("Training", "Training", "PublicTest", "PrivateTest")

    def test_codes_are_not_alphabetical(self, tmp_path: Path) -> None:
        table = fer2013(tmp_path / "fer2013.csv", (0, 4, 5, 6), self.USAGES)
        faces = load_faces(table)
        assert names(table) == ["angry", "sad", "surprise", "neutral"]
        assert (faces.dataset, faces.is_gray) == ("fer2013", True)
        assert faces.roles.tolist() == ["train", "train", "validation", "test"]
        assert faces.read(3).shape == (48, 48)
        assert faces.read(3).flat[:2].tolist() == [3, 7]
        assert names(tmp_path) == names(table)
        assert faces.names == ("fer0000000.png", "fer0000001.png", "fer0000002.png", "fer0000003.png")

    def test_headers_as_they_occur(self, tmp_path: Path) -> None:
        table = fer2013(tmp_path / "icml_face_data.csv", (3,), ("Training",))
        table.write_text(table.read_text().replace("emotion,pixels,Usage", "\ufeffemotion, pixels, Usage"))
        assert names(table) == ["happy"]

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("emotion,", "label,", "columns missing: emotion"),
            ("\n4,", "\n7,", "line 3: 7 is outside 0..6"),
            ("\n4,", "\nsad,", "line 3: 'sad' is no whole number"),
            (",PublicTest", ",Public", "line 4: usage 'Public'"),
            ("\n4,1 7 7", "\n4,1 7", "line 3: expected 2304 pixels of 0 to 255, got 2303"),
            ("\n4,1 7 7", "\n4,1 7 256", "line 3: expected 2304 pixels"),
            ("\n4,1 7 7", "\n4,1 7 x", "line 3: pixels must be numbers"),
            (",PrivateTest\n", "", "line 5: usage ''"),
        ],
    )
    def test_damage(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        table = fer2013(tmp_path / "fer2013.csv", (0, 4, 5, 6), self.USAGES)
        table.write_text(table.read_text().replace(old, new, 1))
        with pytest.raises(InputError, match=message):
            load_faces(table)

    def test_other_csv_files(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"\xff\x00\x81")
        with pytest.raises(InputError, match="not a readable csv file"):
            load_faces(tmp_path / "a.csv")


VOTES = {
    # neutral happiness surprise sadness anger disgust fear contempt unknown NF
    "clear": (0, 9, 1, 0, 0, 0, 0, 0, 0, 0),
    "split": (5, 5, 0, 0, 0, 0, 0, 0, 0, 0),
    "three": (4, 0, 3, 3, 0, 0, 0, 0, 0, 0),
    "single votes": (6, 1, 1, 1, 1, 0, 0, 0, 0, 0),
    "unknown": (3, 0, 0, 0, 0, 0, 0, 0, 7, 0),
    "no face": (7, 0, 0, 0, 0, 0, 0, 0, 0, 3),
    "contempt": (2, 0, 0, 0, 0, 0, 0, 8, 0, 0),
    "nothing": (1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
}


class TestFerPlus:
    def folder(self, root: Path) -> Path:
        usages = ("Training", "Training", "Training", "PublicTest", "PrivateTest", "Training", "Training", "Training")
        fer2013(root / "fer2013.csv", (0,) * 8, usages)
        header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
        lines = [
            f"{usage},fer{i:07}.png,{','.join(map(str, votes))}"
            for i, (usage, votes) in enumerate(zip(usages, VOTES.values(), strict=True))
        ]
        (root / "fer2013new.csv").write_text("\n".join([header, *lines]) + "\n")
        return root

    @pytest.mark.parametrize(
        ("row", "majority", "probability", "multi"),
        [
            ("clear", {1: 1.0}, {1: 1.0}, {1: 1.0}),
            ("split", None, {0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}),
            ("three", None, {0: 0.4, 2: 0.3, 3: 0.3}, {0: 1.0}),
            ("single votes", {0: 1.0}, {0: 1.0}, {0: 1.0}),
            ("unknown", None, None, None),
            ("no face", None, None, None),
            ("contempt", {7: 1.0}, {0: 0.2, 7: 0.8}, {7: 1.0}),
            ("nothing", None, None, None),
        ],
    )
    def test_targets_by_hand(
        self,
        row: str,
        majority: dict[int, float] | None,
        probability: dict[int, float] | None,
        multi: dict[int, float] | None,
    ) -> None:
        for kind, wanted in zip(ferplus.TARGETS, (majority, probability, multi), strict=True):
            found = ferplus.target(np.array(VOTES[row]), kind, 8)
            if wanted is None:
                assert found is None
            else:
                assert found is not None
                np.testing.assert_allclose(found, [wanted.get(k, 0.0) for k in range(8)], atol=1e-6)

    def test_names_of_the_rows_that_are_kept(self, tmp_path: Path) -> None:
        assert load_faces(self.folder(tmp_path)).names == ("fer0000000.png", "fer0000003.png", "fer0000006.png")

    def test_without_contempt_its_faces_are_left_out(self) -> None:
        assert ferplus.target(np.array(VOTES["contempt"]), "majority", 7) is None
        found = ferplus.target(np.array((7, 0, 0, 0, 0, 0, 0, 3, 0, 0)), "probability", 7)
        assert found is not None
        assert found.tolist() == [1, 0, 0, 0, 0, 0, 0]

    def test_votes_meet_their_pixels(self, tmp_path: Path) -> None:
        faces = load_faces(self.folder(tmp_path))
        assert (faces.dataset, faces.left_out, faces.soft) == ("ferplus", 5, None)
        assert names(tmp_path) == ["happy", "neutral", "contempt"]
        assert faces.roles.tolist() == ["train", "validation", "train"]
        assert [int(faces.read(i)[0, 0]) for i in range(3)] == [0, 3, 6]

    def test_soft_targets(self, tmp_path: Path) -> None:
        faces = load_faces(self.folder(tmp_path), targets="probability")
        assert faces.soft is not None
        np.testing.assert_allclose(faces.soft.sum(axis=1), 1, atol=1e-6)
        assert (faces.soft.argmax(axis=1) == faces.labels).all()
        assert len(load_faces(tmp_path, dataset="ferplus7", targets="probability").classes) == 7
        with pytest.raises(UsageError, match="expected majority, probability, multi-label"):
            load_faces(tmp_path, targets="average")
        with pytest.raises(UsageError, match=r"'probability' come from votes, which FERPlus has and .* has not"):
            load_faces(tmp_path / "fer2013.csv", targets="probability")

    def test_images_from_folders(self, tmp_path: Path) -> None:
        self.folder(tmp_path)
        (tmp_path / "fer2013.csv").unlink()
        with pytest.raises(InputError, match=r"put FER2013's fer2013\.csv beside it"):
            load_faces(tmp_path)
        for folder, name in (("FER2013Train", 0), ("FER2013Valid", 3), ("FER2013Train", 6)):
            picture(tmp_path / folder / f"fer{name:07}.png", name, gray=True)
        faces = load_faces(tmp_path)
        assert [int(faces.read(i)[5, 5]) for i in range(3)] == [0, 3, 6]
        (tmp_path / "FER2013Valid" / "fer0000003.png").unlink()
        with pytest.raises(InputError, match="1 of 3 listed images are missing"):
            load_faces(tmp_path)

    def test_tables_must_go_row_by_row(self, tmp_path: Path) -> None:
        self.folder(tmp_path)
        fer2013(tmp_path / "fer2013.csv", (0,), ("Training",))
        with pytest.raises(InputError, match="row by row"):
            load_faces(tmp_path)

    def test_too_many_votes(self, tmp_path: Path) -> None:
        table = self.folder(tmp_path) / "fer2013new.csv"
        table.write_text(table.read_text().replace(",9,", ",11,"))
        with pytest.raises(InputError, match="line 2, happiness: 11 is outside 0..10"):
            load_faces(tmp_path)


# AffectNet ---------------------------------------------------------------------------------------------------------


class TestAffectNet:
    def tables(self, root: Path) -> Path:
        header = (
            "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
        )
        parts = {
            "training.csv": ["1/a.jpg,2,3,5,6,0;0,0,0,0", "1/b.jpg,0,0,10,10,0;0,6,0,0", "2/c.jpg,0,0,10,10,0;0,7,0,0"],
            "validation.csv": ["2/d.jpg,-2,-2,20,20,0;0,4,0,0", "2/e.jpg,0,0,9,9,0;0,10,0,0"],
        }
        for name, lines in parts.items():
            (root / name).write_text("\n".join([header, *lines]) + "\n")
            for line in lines[:3]:
                picture(root / "Manually_Annotated_Images" / line.split(",")[0], 50, (20, 30))
        return root

    def test_tables_and_boxes(self, tmp_path: Path) -> None:
        faces = load_faces(self.tables(tmp_path))
        assert (faces.dataset, faces.left_out) == ("affectnet8", 1)
        assert names(tmp_path) == ["neutral", "angry", "contempt", "fear"]
        assert faces.roles.tolist() == ["train", "train", "train", "validation"]
        assert faces.read(0).shape == (6, 5, 3)
        assert faces.read(3).shape == (18, 18, 3), "a box that leaves the image is cut to it"
        seven = load_faces(tmp_path, dataset="affectnet7")
        assert (seven.classes, seven.left_out) == (LABEL_SETS["affectnet7"].classes, 2)

    def test_tables_in_a_folder_of_their_own(self, tmp_path: Path) -> None:
        """As the archive has them."""
        before = names(self.tables(tmp_path))
        (tmp_path / "Manually_Annotated_file_lists").mkdir()
        for name in ("training.csv", "validation.csv"):
            (tmp_path / name).rename(tmp_path / "Manually_Annotated_file_lists" / name)
        assert names(tmp_path) == before

    def test_annotation_files(self, tmp_path: Path) -> None:
        for part, number, code in (("train_set", 2, "3"), ("train_set", 10, "7"), ("val_set", 5, "1")):
            picture(tmp_path / part / "images" / f"{number}.jpg", number)
            (tmp_path / part / "annotations").mkdir(exist_ok=True)
            np.save(tmp_path / part / "annotations" / f"{number}_exp.npy", np.array(code))
            np.save(tmp_path / part / "annotations" / f"{number}_val.npy", np.array("0.5"))
        assert names(tmp_path) == ["surprise", "contempt", "happy"]
        assert names(tmp_path, dataset="affectnet7") == ["surprise", "happy"]
        np.save(tmp_path / "val_set" / "annotations" / "5_exp.npy", np.array([1, 2]))
        with pytest.raises(InputError, match=r"5_exp\.npy: expected one code, got 2"):
            load_faces(tmp_path)
        np.save(tmp_path / "val_set" / "annotations" / "5_exp.npy", np.array([{}]), allow_pickle=True)
        with pytest.raises(InputError, match=r"5_exp\.npy: not a readable \.npy file"):
            load_faces(tmp_path)

    def test_numbered_folders(self, tmp_path: Path) -> None:
        for part in ("train", "val"):
            for code in range(8):
                picture(tmp_path / part / str(code) / "x.jpg", code)
        faces = load_faces(tmp_path)
        assert [faces.classes[k] for k in faces.labels[faces.roles == "train"]] == list(
            LABEL_SETS["affectnet8"].classes
        )
        assert len(load_faces(tmp_path, dataset="affectnet7")) == 14
        with pytest.raises(UsageError, match="layout of affectnet8 or affectnet7, not of rafdb"):
            load_faces(tmp_path, dataset="rafdb")
        shutil.rmtree(tmp_path / "train" / "0")
        with pytest.raises(InputError, match=r"train/0 is missing or holds no image"):
            load_faces(tmp_path)
        picture(tmp_path / "train" / "0" / "x.jpg", 0)
        for part in ("train", "val"):
            picture(tmp_path / part / "11" / "x.jpg", 0)
        with pytest.raises(InputError, match=r"train/11: 11 is outside 0\.\.10"):
            load_faces(tmp_path)

    def test_seven_classes_where_there_is_no_contempt(self, tmp_path: Path) -> None:
        for part in ("train", "val"):
            for code in range(7):
                picture(tmp_path / part / str(code) / "x.jpg", code)
        assert load_faces(tmp_path).dataset == "affectnet7"
        assert len(load_faces(tmp_path, dataset="affectnet8").classes) == 8

    def test_without_training_images_nothing_is_drawn_from_the_validation_split(self, tmp_path: Path) -> None:
        (self.tables(tmp_path) / "training.csv").unlink()
        faces = load_faces(tmp_path)
        assert faces.roles.tolist() == ["validation"]
        with pytest.raises(InputError, match="its training images are missing, there are only those of: validation"):
            split_faces(faces)

    def test_a_missing_folder_of_images_is_named(self, tmp_path: Path) -> None:
        shutil.rmtree(self.tables(tmp_path) / "Manually_Annotated_Images")
        with pytest.raises(InputError, match=r"4 of 4 listed images .*/Manually_Annotated_Images/"):
            load_faces(tmp_path)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (",expression,", ",emotion,", "columns missing: expression"),
            ("0;0,6,", "0;0,11,", "line 3: 11 is outside 0..10"),
            ("1/b.jpg", "../b.jpg", "no path inside the data set"),
            ("1/b.jpg", "/b.jpg", "no path inside the data set"),
            ("1/b.jpg", "1/lost.jpg", "1 of 4 listed images are missing, such as .*lost.jpg"),
            ("1/a.jpg,2,3", "1/a.jpg,2,x", "line 2: 'x' is no whole number"),
        ],
    )
    def test_damage(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        table = self.tables(tmp_path) / "training.csv"
        table.write_text(table.read_text().replace(old, new))
        with pytest.raises(InputError, match=message):
            load_faces(tmp_path)

    def test_a_box_outside_of_its_image(self, tmp_path: Path) -> None:
        table = self.tables(tmp_path) / "training.csv"
        table.write_text(table.read_text().replace("1/a.jpg,2,3", "1/a.jpg,200,3"))
        with pytest.raises(InputError, match=r"a\.jpg: the face's box"):
            load_faces(tmp_path).read(0)


# CK+ ---------------------------------------------------------------------------------------------------------------


class TestCkPlus:
    def folder(self, root: Path, subjects: int = 3) -> Path:
        for subject in range(subjects):
            sequence = Path(f"S{subject:03}") / "001"
            points = np.stack([np.linspace(20, 40, 68), np.linspace(10, 30, 68)], axis=1)
            for frame in range(1, 6):
                stem = f"S{subject:03}_001_{frame:08}"
                file = root / "cohn-kanade-images" / sequence / f"{stem}.png"
                picture(file, 10 * frame + subject, (48, 64), gray=True)
                (root / "Landmarks" / sequence).mkdir(parents=True, exist_ok=True)
                np.savetxt(root / "Landmarks" / sequence / f"{stem}_landmarks.txt", points)
            (root / "Emotion" / sequence).mkdir(parents=True)
            (root / "Emotion" / sequence / f"{stem}_emotion.txt").write_text(f"   {1 + subject % 7}.0000000e+00\n")
        picture(root / "cohn-kanade-images" / "S900" / "001" / "S900_001_00000001.png", 1, gray=True)
        (root / "Emotion" / "S900" / "001").mkdir(parents=True)
        return root

    def test_last_three_frames_of_labelled_sequences(self, tmp_path: Path) -> None:
        faces = load_faces(self.folder(tmp_path))
        assert names(tmp_path) == ["angry"] * 3 + ["contempt"] * 3 + ["disgust"] * 3
        assert [int(faces.read(i)[2, 2]) for i in range(3)] == [30, 40, 50]
        assert faces.read(0).shape == (24, 24), "the points' box of 20 x 20, and a fifth more"
        assert faces.dataset == "ckplus"
        assert faces.groups is not None
        assert faces.groups.tolist() == ["S000"] * 3 + ["S001"] * 3 + ["S002"] * 3

    def test_folds_and_splits_keep_people_apart(self, tmp_path: Path) -> None:
        faces = load_faces(self.folder(tmp_path, subjects=12))
        fold = fold_of(faces, 10)
        assert fold.reshape(12, 3)[:, 0].tolist() == [*range(10), 0, 1]
        assert (fold.reshape(12, 3) == fold.reshape(12, 3)[:, :1]).all()
        split = split_faces(faces, fraction=0.2, seed=1)
        assert faces.groups is not None
        assert not set(faces.groups[split.train]) & set(faces.groups[split.validation])
        assert len(split.validation) == 6
        with pytest.raises(UsageError, match="expected 2 to 12"):
            fold_of(faces, 13)

    def test_each_fold_validates_once(self, tmp_path: Path) -> None:
        faces = load_faces(self.folder(tmp_path, subjects=12))
        splits = [split_fold(faces, number) for number in range(1, 11)]
        assert sorted(np.concatenate([s.validation for s in splits]).tolist()) == list(range(len(faces)))
        # Subjects 1 and 11 of 12, three frames each.
        assert splits[0].validation.tolist() == [0, 1, 2, 30, 31, 32]
        assert faces.groups is not None
        for split in splits:
            assert not set(faces.groups[split.train]) & set(faces.groups[split.validation])
        with pytest.raises(UsageError, match="fold 11: expected 1 to 10"):
            split_fold(faces, 11)
        roles = np.where(np.arange(len(faces)) < 9, "validation", "train")
        with pytest.raises(UsageError, match="has a split of its own: it is trained without --fold"):
            split_fold(replace(faces, roles=roles), 1)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda r: (r / "Emotion").rename(r / "Emotions"), "Emotion_labels"),
            (lambda r: next((r / "Emotion").rglob("S000*")).write_text("9"), "code 9 is outside 1..7"),
            (lambda r: next((r / "Emotion").rglob("S000*.txt")).write_text("x"), "expected one number"),
            (lambda r: [f.unlink() for f in (r / "cohn-kanade-images" / "S000" / "001").iterdir()], "0 frames"),
        ],
        ids=["no labels", "code", "no number", "no frames"],
    )
    def test_damage(self, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
        root = self.folder(tmp_path)
        if message.startswith("code"):
            next((root / "Emotion").rglob("S000*.txt")).write_text("9")
        else:
            damage(root)
        with pytest.raises(InputError, match=message):
            load_faces(root)

    def test_missing_landmarks(self, tmp_path: Path) -> None:
        root = self.folder(tmp_path)
        (root / "Landmarks" / "S000").rename(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="no landmarks to cut the face out with"):
            load_faces(root).read(0)


# Class folders -----------------------------------------------------------------------------------------------------


def test_folders_of_splits(tmp_path: Path) -> None:
    """FER2013 as people unpack it: train/angry/…, test/angry/…; a class may be absent from the test images."""
    parts = (("train", "Anger", 1), ("train", "happy", 2), ("train", "sad", 3), ("test", "sad", 4))
    for part, name, value in parts:
        picture(tmp_path / part / name / "a.png", value)
    faces = load_faces(tmp_path)
    assert faces.classes == ("angry", "happy", "sad")
    assert names(tmp_path) == ["angry", "happy", "sad", "sad"]
    assert faces.roles.tolist() == ["train", "train", "train", "test"]
    assert [int(faces.read(i)[5, 5, 0]) for i in range(4)] == [1, 2, 3, 4]


def test_folders_in_the_order_of_a_data_set(tmp_path: Path) -> None:
    for name in ("happiness", "Anger"):
        picture(tmp_path / name / "a.png", 1)
    faces = load_faces(tmp_path, dataset="rafdb")
    assert faces.classes == LABEL_SETS["rafdb"].classes
    assert sorted(names(tmp_path, dataset="rafdb")) == ["angry", "happy"]
    picture(tmp_path / "bored" / "a.png", 1)
    with pytest.raises(InputError, match="rafdb has no class bored"):
        load_faces(tmp_path, dataset="rafdb")
    with pytest.raises(UsageError, match="unknown data set 'raf'"):
        load_faces(tmp_path, dataset="raf")


def test_folds_of_single_images_share_the_classes(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 10])
    np.savez(tmp_path / "d.npz", images=np.zeros((90, 4, 4), np.uint8), labels=labels)
    fold = fold_of(load_faces(tmp_path / "d.npz"), 10)
    counts = np.array([[((fold == f) & (labels == k)).sum() for k in range(3)] for f in range(10)])
    assert (counts == [5, 3, 1]).all()
