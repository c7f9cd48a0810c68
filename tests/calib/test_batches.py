"""Calibration sets: equal shares, no row that judges, bounded memory, a hash of what was looked at."""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from poster_edge.calib.batches import CalibrationSet, from_faces, sample_rows
from poster_edge.config import Preprocess
from poster_edge.data.faces import FaceSet, load_faces
from poster_edge.data.preprocess import to_input
from poster_edge.data.split import split_faces
from poster_edge.errors import InputError

PLAIN = Preprocess(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def labels_of(counts: list[int]) -> np.ndarray:
    """Labels with so many rows of each class, mixed."""
    return np.random.default_rng(5).permutation(np.repeat(np.arange(len(counts)), counts))


def save_faces(path: Path, values: list[int], roles: list[int], names: tuple[str, ...]) -> FaceSet:
    """Gray images of one value each, all of one class, with splits."""
    images = np.stack([np.full((8, 8), v, np.uint8) for v in values])
    np.savez(path, images=images, labels=np.zeros(len(values), int), split=roles, split_names=np.array(names))
    return load_faces(path)


def values_of(found: CalibrationSet) -> list[int]:
    return [int(found.read(i)[0, 0]) for i in range(found.count)]


class TestSampling:
    @pytest.mark.parametrize(
        ("counts", "count", "expected"),
        [
            ([10, 10, 10], 9, [3, 3, 3]),
            ([2, 10, 10], 12, [2, 5, 5]),
            ([1, 3, 100], 20, [1, 3, 16]),
            ([9, 0, 9], 6, [3, 0, 3]),
            ([4, 1, 2], 7, [4, 1, 2]),
            ([4, 1, 2], 500, [4, 1, 2]),
            ([4, 1, 2], 0, [0, 0, 0]),
        ],
        ids=["even", "scarce", "two-scarce", "absent", "exactly-all", "more-than-all", "none"],
    )
    def test_quotas(self, counts: list[int], count: int, expected: list[int]) -> None:
        labels = labels_of(counts)
        rows = sample_rows(labels, len(labels), count, seed=0)
        assert len(set(rows.tolist())) == len(rows)
        assert np.bincount(labels[rows], minlength=len(counts)).tolist() == expected

    def test_what_does_not_divide_evenly_favours_no_class(self) -> None:
        labels = labels_of([100, 100, 100])
        extra = [np.bincount(labels[sample_rows(labels, 300, 4, seed)]).argmax() for seed in range(60)]
        assert np.bincount(extra, minlength=3).min() >= 10

    def test_every_beginning_is_stratified_and_is_the_smaller_sample(self) -> None:
        labels = labels_of([30, 50, 70, 90])
        rows = sample_rows(labels, len(labels), 120, seed=3)
        for count in range(1, 121):
            shares = np.bincount(labels[rows[:count]], minlength=4)
            assert shares.max() - shares.min() <= 1
        assert sample_rows(labels, len(labels), 37, seed=3).tolist() == rows[:37].tolist()

    @pytest.mark.parametrize("labels", [None, labels_of([40, 60])], ids=["unlabelled", "labelled"])
    def test_a_seed_decides(self, labels: np.ndarray | None) -> None:
        first, again, other = (sample_rows(labels, 100, 30, seed).tolist() for seed in (1, 1, 2))
        assert first == again != other
        assert first != sorted(first)
        assert set(first) != set(other)

    def test_without_labels_every_row_is_as_likely(self) -> None:
        hits = np.zeros(20, int)
        for seed in range(400):
            hits[sample_rows(None, 20, 5, seed)] += 1
        # Binomial(400, 1/4): mean 100, standard deviation 8.7.
        assert hits.sum() == 2000
        assert 65 <= hits.min() <= hits.max() <= 135

    def test_a_refused_row_is_replaced_by_one_of_its_class(self) -> None:
        labels = labels_of([20, 20])
        refused = set(sample_rows(labels, 40, 10, seed=0).tolist())
        rows = sample_rows(labels, 40, 10, seed=0, usable=lambda row: row not in refused)
        assert not refused & set(rows.tolist())
        assert np.bincount(labels[rows]).tolist() == [5, 5]


class TestSplits:
    def test_only_training_rows_and_no_twins_of_others(self, tmp_path: Path) -> None:
        values, roles = [10, 20, 30, 40, 50, 20, 60, 40, 70], [0, 0, 0, 0, 0, 1, 1, 2, 2]
        faces = save_faces(tmp_path / "d.npz", values, roles, ("Training", "PublicTest", "PrivateTest"))
        found = from_faces(faces, 100, seed=0)
        assert sorted(values_of(found)) == [10, 30, 50]
        assert found.count == 3

    def test_agrees_with_the_trainers_split(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        faces = save_faces(
            tmp_path / "d.npz",
            rng.integers(0, 60, 80).tolist(),
            rng.integers(0, 2, 80).tolist(),
            ("train", "validation"),
        )
        kept = [int(faces.read(i)[0, 0]) for i in split_faces(faces).train]
        assert sorted(values_of(from_faces(faces, 80, seed=4))) == sorted(kept)
        assert len(kept) < len(faces.indices("train"))

    def test_a_file_with_nothing_to_train_on(self, tmp_path: Path) -> None:
        faces = save_faces(tmp_path / "d.npz", [1, 2], [0, 0], ("PublicTest",))
        with pytest.raises(InputError, match=r"d\.npz has no training images, only validation"):
            from_faces(faces, 2, seed=0)

    def test_all_training_rows_are_twins(self, tmp_path: Path) -> None:
        faces = save_faces(tmp_path / "d.npz", [1, 1, 1], [0, 0, 1], ("Training", "PublicTest"))
        with pytest.raises(InputError, match="none of 2 images can be used"):
            from_faces(faces, 2, seed=0)

    def test_rows_that_the_caller_names(self, tmp_path: Path) -> None:
        faces = save_faces(tmp_path / "d.npz", [1, 2, 3, 4], [0, 0, 1, 1], ("Training", "PublicTest"))
        assert sorted(values_of(from_faces(faces, 9, seed=0, rows=np.array([1, 3])))) == [2, 4]

    def test_fer2013_itself(self, shared: Path) -> None:
        faces = load_faces(shared / "data" / "fer2013_train_valid.npz")
        found = from_faces(faces, 512, seed=0)
        assert found.labels is not None
        shares = np.bincount(found.labels)
        assert (found.count, len(shares), shares.max() - shares.min()) == (512, 7, 1)
        judging = {faces.read(int(i)).tobytes() for i in faces.indices("validation")}
        training = {faces.read(int(i)).tobytes() for i in faces.indices("train")}
        crops = [found.read(i).tobytes() for i in range(found.count)]
        assert not judging & set(crops)
        assert training >= set(crops)


class TestUnreadable:
    @pytest.fixture
    def faces(self, tmp_path: Path) -> FaceSet:
        """Six images each of two classes, one file of each class broken."""
        for name in ("happy", "sad"):
            (tmp_path / name).mkdir()
            for i in range(6):
                cv2.imwrite(str(tmp_path / name / f"{i}.png"), np.full((4, 4), 10 * i, np.uint8))
            (tmp_path / name / "3.png").write_bytes(b"broken")
        return load_faces(tmp_path)

    def test_is_named_and_replaced(self, faces: FaceSet) -> None:
        said: list[str] = []
        found = from_faces(faces, 12, seed=0, notify=said.append)
        assert found.labels is not None
        assert np.bincount(found.labels).tolist() == [5, 5]
        assert 30 not in values_of(found)
        assert sorted(Path(line.split(":")[0]).parent.name for line in said if "3.png" in line) == ["happy", "sad"]

    def test_is_an_error_where_nobody_is_told(self, faces: FaceSet) -> None:
        with pytest.raises(InputError, match=r"3\.png: not a readable image"):
            from_faces(faces, 12, seed=0)


class TestSet:
    @pytest.fixture
    def faces(self) -> FaceSet:
        """Eleven colour images of different sizes, three classes, no splits."""
        rng = np.random.default_rng(2)
        images = [rng.integers(0, 255, (8 + i, 9 + i, 3), dtype=np.uint8) for i in range(11)]
        labels = np.arange(11) % 3
        return FaceSet("drawn", ("a", "b", "c"), labels, images.__getitem__, np.full(11, "", dtype="U1"))

    def test_labels_belong_to_their_images(self, faces: FaceSet) -> None:
        found = from_faces(faces, 11, seed=0)
        assert found.labels is not None
        label_of = {faces.read(i).tobytes(): int(faces.labels[i]) for i in range(11)}
        assert [label_of[found.read(i).tobytes()] for i in range(11)] == found.labels.tolist()
        assert (found.name, found.classes) == ("drawn", ("a", "b", "c"))

    def test_batches_are_the_inputs_in_order(self, faces: FaceSet) -> None:
        found = from_faces(faces, 11, seed=0)
        batches = list(found.batches(PLAIN, 4))
        assert [b.shape for b in batches] == [(4, 3, 8, 8), (4, 3, 8, 8), (3, 3, 8, 8)]
        whole = to_input([found.read(i) for i in range(11)], PLAIN)
        np.testing.assert_array_equal(np.concatenate(batches), whole)

    def test_gray_and_colour_go_together(self) -> None:
        images = [np.full((5, 5), 51, np.uint8), np.full((6, 6, 3), 102, np.uint8)]
        (batch,) = CalibrationSet("mixed", 2, images.__getitem__, None, ()).batches(PLAIN, 8)
        np.testing.assert_allclose(batch.mean(axis=(1, 2, 3)), [0.2, 0.4], atol=1e-6)

    def test_digest_is_that_of_shapes_and_pixels(self, faces: FaceSet) -> None:
        found = from_faces(faces, 2, seed=0)
        first, second = found.read(0), found.read(1)
        data = b"".join(str(c.shape).encode() + c.tobytes() for c in (first, second))
        assert found.digest() == hashlib.sha256(data).hexdigest()

    def test_digest_sees_a_pixel_the_order_a_shape_and_the_count(self, faces: FaceSet) -> None:
        found = from_faces(faces, 4, seed=0)
        crops = [found.read(i).copy() for i in range(4)]

        def digest(images: list[np.ndarray]) -> str:
            return replace(found, count=len(images), read=images.__getitem__).digest()

        touched = [c.copy() for c in crops]
        touched[2][0, 0, 0] ^= 1
        height, width, _ = crops[0].shape
        turned = [crops[0].reshape(width, height, 3), *crops[1:]]
        assert digest(crops) == found.digest()
        digests = [digest(images) for images in (crops, touched, crops[::-1], turned, crops[:3])]
        assert len(set(digests)) == 5

    def test_digest_does_not_depend_on_the_layout_in_memory(self) -> None:
        picture = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        view = picture[3:9, 2:7]
        digests = {CalibrationSet("x", 1, [c].__getitem__, None, ()).digest() for c in (view, view.copy())}
        assert len(digests) == 1

    def test_no_more_than_a_batch_is_in_memory(self) -> None:
        alive: weakref.WeakSet[np.ndarray] = weakref.WeakSet()
        most = 0

        class Crop(np.ndarray):
            """An array that weak sets can hold by identity."""

            __hash__ = object.__hash__

        def read(index: int) -> np.ndarray:
            nonlocal most
            crop = np.full((8, 8), index, np.uint8).view(Crop)
            alive.add(crop)
            most = max(most, len(alive))
            return crop

        found = CalibrationSet("lazy", 100, read, None, ())
        assert sum(len(batch) for batch in found.batches(PLAIN, 8)) == 100
        assert most <= 8
        found.digest()
        assert most <= 8
