"""What ``--calib DATA`` can be, what a network is then fed, and one line for each thing that is wrong."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import poster_edge
from poster_edge.calib.batches import CalibrationSet
from poster_edge.cli.calib_source import CropSample, open_calibration
from poster_edge.cli.main import main
from poster_edge.config import Preprocess
from poster_edge.data.preprocess import to_input
from poster_edge.errors import InputError, PosterEdgeError, UnavailableError, UsageError
from poster_edge.labels import LABEL_SETS
from poster_edge.pipeline import filelist
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.ort_runner import OrtRunner
from poster_edge.vision.yunet import MODEL_NAME, MODEL_VARIABLE

SAMPLES = Path(poster_edge.__file__).parent / "zoo" / "samples"
ASTRONAUT = SAMPLES / "astronaut.jpg"
SMALL = Preprocess(size=16, margin=0.0)


def opened(path: Path, *, count: int = 8, detector: str = "haar", **options: Any) -> tuple[CalibrationSet, list[str]]:
    said: list[str] = []
    options = {"preprocess": SMALL, "seed": 0, **options}
    return open_calibration(path, count=count, detector=detector, notify=said.append, **options), said


def write(path: Path, value: int = 0, shape: tuple[int, ...] = (24, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full(shape, value, np.uint8))
    return path


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return np.asarray(image, np.uint8)


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    size = (frames[0].shape[1], frames[0].shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, size)
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def crops_of(found: CalibrationSet) -> list[np.ndarray]:
    return [found.read(i) for i in range(found.count)]


@pytest.fixture
def yunet(monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    monkeypatch.setenv(MODEL_VARIABLE, str(shared / "models" / MODEL_NAME))


class TestCropsAsTheyAre:
    @pytest.fixture
    def images(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 255, (40, 12, 10, 3), dtype=np.uint8)

    def test_arrays_and_class_folders_give_the_same(self, tmp_path: Path, images: np.ndarray) -> None:
        labels = np.arange(40) // 20
        np.savez(tmp_path / "d.npz", images=images, labels=labels, classes=np.array(["Anger", "Happiness"]))
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = write(tmp_path / "folders" / ["Anger", "Happiness"][label] / f"{i:02}.png")
            cv2.imwrite(str(file), image)
        (arrays, said), (folders, _) = opened(tmp_path / "d.npz", count=32), opened(tmp_path / "folders", count=32)
        assert (said, arrays.count, arrays.classes) == ([], 32, ("angry", "happy"))
        assert arrays.labels is not None
        assert np.bincount(arrays.labels).tolist() == [16, 16]
        assert {c.tobytes() for c in crops_of(arrays)} <= {im.tobytes() for im in images}
        assert arrays.digest() == folders.digest()

    def test_folders_named_by_the_models_own_classes(self, tmp_path: Path) -> None:
        for name in ("bored", "engaged"):
            write(tmp_path / name / "1.png")
        found, _ = opened(tmp_path, classes=("Bored", "engaged", "confused"))
        assert (found.count, found.classes) == (2, ("bored", "engaged"))
        with pytest.raises(InputError, match="2 images, no face found by haar"):
            opened(tmp_path)

    def test_a_few_other_folders_are_classes_too(self, tmp_path: Path) -> None:
        for name in ("happy", "sad", "bored"):
            write(tmp_path / name / "1.png")
        found, _ = opened(tmp_path)
        assert found.classes == ("bored", "happy", "sad")

    def test_one_class_is_remarked(self, tmp_path: Path) -> None:
        for i in range(40):
            write(tmp_path / "sad" / f"{i}.png", i)
        found, said = opened(tmp_path, count=40)
        assert found.count == 40
        assert len(said) == 1
        assert "all images to calibrate on are 'sad'" in said[0]

    def test_an_unreadable_file_is_named(self, tmp_path: Path) -> None:
        for name in ("happy", "sad"):
            write(tmp_path / name / "1.png")
        (tmp_path / "sad" / "2.png").write_bytes(b"")
        found, said = opened(tmp_path)
        assert found.count == 2
        assert [line for line in said if "2.png: not a readable image; passed over" in line]

    def test_class_folders_without_images(self, tmp_path: Path) -> None:
        (tmp_path / "happy").mkdir()
        with pytest.raises(InputError, match="no images in class folders"):
            opened(tmp_path)

    def test_training_rows_only(self, tmp_path: Path, images: np.ndarray) -> None:
        split = np.arange(40) % 2
        names = np.array(["Training", "PublicTest"])
        np.savez(tmp_path / "d.npz", images=images, labels=np.arange(40) % 7, split=split, split_names=names)
        found, _ = opened(tmp_path / "d.npz", count=40)
        assert {c.tobytes() for c in crops_of(found)} == {im.tobytes() for im in images[::2]}

    def test_splits_of_class_folders(self, tmp_path: Path, images: np.ndarray) -> None:
        for i, image in enumerate(images):
            folder = tmp_path / ("train" if i < 30 else "test") / ("happy" if i % 2 else "sad")
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{i}.png"), image)
        found, said = opened(tmp_path, count=40)
        assert {c.tobytes() for c in crops_of(found)} == {im.tobytes() for im in images[:30]}
        assert said[0] == f"{tmp_path}: only 30 images to calibrate on were found; 40 were asked for"

    def test_a_data_set_as_it_is_published(self, tmp_path: Path, images: np.ndarray) -> None:
        """RAF-DB's aligned images are crops, not photos to find faces in, and its test images are not to be seen."""
        (tmp_path / "EmoLabel").mkdir()
        (tmp_path / "Image" / "aligned").mkdir(parents=True)
        lines = []
        for i, image in enumerate(images):
            name = f"{'train' if i < 30 else 'test'}_{i:05d}"
            lines.append(f"{name}.jpg {i % 7 + 1}\n")
            cv2.imwrite(str(tmp_path / "Image" / "aligned" / f"{name}_aligned.jpg"), image)
        (tmp_path / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines))
        found, _ = opened(tmp_path, count=40)
        assert found.count == 30
        assert found.classes == LABEL_SETS["rafdb"].classes
        seen = np.stack(crops_of(found)).reshape(30, -1).mean(axis=1)
        stored = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in sorted(tmp_path.rglob("train_*.jpg"))]
        np.testing.assert_allclose(np.sort(seen), np.sort(np.stack(stored).reshape(30, -1).mean(axis=1)))


class TestFedAsRunFeeds:
    @pytest.fixture
    def fed_by_run(
        self, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
    ) -> Callable[..., Counter[bytes]]:
        """What ``poster-edge run`` gave its network, as bytes of one face each."""
        infer = OrtRunner.infer

        def fed(*args: object) -> Counter[bytes]:
            inputs: list[bytes] = []

            def recording(self: OrtRunner, feed: Any) -> Any:
                inputs.extend(face.tobytes() for batch in feed.values() for face in batch)
                return infer(self, feed)

            with monkeypatch.context() as patch:
                patch.setattr(OrtRunner, "infer", recording)
                words = ("poster-edge", "run", "--model", tiny_bundle, "--runtime", "onnxruntime", *args)
                patch.setattr(sys, "argv", [str(w) for w in words])
                with pytest.raises(SystemExit) as ended:
                    main()
            assert not ended.value.code, capfd.readouterr().err
            return Counter(inputs)

        return fed

    @pytest.fixture
    def preprocess(self, tiny_bundle: Path) -> Preprocess:
        return load_bundle(str(tiny_bundle)).manifest.preprocess

    def fed_by_calibration(self, found: CalibrationSet, preprocess: Preprocess) -> Counter[bytes]:
        return Counter(face.tobytes() for batch in found.batches(preprocess, 3) for face in batch)

    @pytest.mark.parametrize("detector", ["haar", "none"])
    def test_packaged_photos(
        self, fed_by_run: Callable[..., Counter[bytes]], preprocess: Preprocess, detector: str
    ) -> None:
        expected = fed_by_run("-s", SAMPLES, "--detector", detector)
        found, _ = opened(SAMPLES, preprocess=preprocess, detector=detector)
        assert self.fed_by_calibration(found, preprocess) == expected
        assert expected.total() == 2

    @pytest.mark.parametrize("turn", [0, 25], ids=["upright", "tilted"])
    @pytest.mark.usefixtures("yunet")
    def test_a_group(
        self,
        fed_by_run: Callable[..., Counter[bytes]],
        preprocess: Preprocess,
        media: Path,
        tmp_path: Path,
        turn: int,
    ) -> None:
        picture = cv2.warpAffine(
            read(media / "mosaic5_640x480.jpg"), cv2.getRotationMatrix2D((320, 240), turn, 1), (640, 480)
        )
        cv2.imwrite(str(tmp_path / "group.png"), picture)
        expected = fed_by_run("-s", tmp_path / "group.png", "--detector", "yunet")
        found, said = opened(tmp_path / "group.png", preprocess=preprocess, detector="yunet", count=64)
        assert self.fed_by_calibration(found, preprocess) == expected
        assert found.count == expected.total() >= 4
        assert (found.name, found.labels) == ("group.png, faces found by yunet", None)
        assert any(f"only {found.count} images to calibrate on were found; 64 were asked for" in s for s in said)

    @pytest.mark.usefixtures("yunet")
    def test_a_clip(self, fed_by_run: Callable[..., Counter[bytes]], preprocess: Preprocess, media: Path) -> None:
        clip = media / "short_hamilton_clip_noaudio.mp4"
        expected = fed_by_run("-s", clip, "--vid-stride", 275 // 12, "--detector", "yunet")
        found, _ = opened(clip, preprocess=preprocess, detector="yunet", count=12)
        fed = self.fed_by_calibration(found, preprocess)
        assert fed <= expected
        # One to eight faces a frame: more than were asked for, of which a part is kept.
        assert found.count == 12 < expected.total()

    @pytest.mark.parametrize("size", [16, 512, 600], ids=["shrunk", "as-it-is", "enlarged"])
    @pytest.mark.parametrize("colour", ["rgb", "bgr", "gray"])
    @pytest.mark.parametrize("interpolation", ["linear", "area"])
    def test_keeping_crops_small_changes_no_pixel(self, size: int, colour: str, interpolation: str) -> None:
        settings = Preprocess(size=size, colour=colour, interpolation=interpolation, margin=0.0)
        found, _ = opened(ASTRONAUT, preprocess=settings, detector="none")
        (batch,) = found.batches(settings, 1)
        # The whole picture is the face, and the picture is square.
        np.testing.assert_array_equal(batch, to_input([read(ASTRONAUT)], settings))
        assert found.read(0).shape == (size, size, 3)
        assert found.read(0).base is None


class TestPhotos:
    def test_nested_folders(self, tmp_path: Path) -> None:
        for name in ("2024/a/1.png", "2023/2.JPG", "3.png", ".hidden/4.png", "2023/.5.png"):
            write(tmp_path / name, 9)
        (tmp_path / "2023" / "notes.txt").write_text("x")
        write_video(tmp_path / "clip.avi", [np.zeros((48, 64, 3), np.uint8)] * 2)
        found, said = opened(tmp_path, detector="none")
        assert (found.count, found.classes) == (3, ())
        assert any("its folders (2023, a) are not named by class: taken for photos" in line for line in said)
        assert any("videos in it are left out (1)" in line for line in said)

    def test_three_photos_will_do(self, tmp_path: Path) -> None:
        for i in range(3):
            cv2.imwrite(str(tmp_path / f"{i}.png"), np.roll(read(ASTRONAUT), 10 * i, axis=1))
        found, said = opened(tmp_path, count=3)
        assert found.count == 3
        assert said == ["ranges from fewer than 32 images are unreliable; there are 3"]

    def test_enough_images_go_without_remark(self, tmp_path: Path) -> None:
        for i in range(40):
            write(tmp_path / f"{i}.png", i)
        assert opened(tmp_path, count=32, detector="none")[1] == []

    def test_a_seed_draws_the_images(self, tmp_path: Path) -> None:
        for i in range(40):
            write(tmp_path / f"{i:02}.png", 6 * i)
        first, again, other = (opened(tmp_path, detector="none", seed=s)[0].digest() for s in (1, 1, 2))
        assert first == again != other

    def test_no_more_images_are_read_than_needed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for i in range(20):
            write(tmp_path / f"{i}.png", i)
        opened_files: list[Path] = []
        real = filelist.read_bytes
        monkeypatch.setattr(filelist, "read_bytes", lambda path: (opened_files.append(path), real(path))[1])
        assert opened(tmp_path, count=5, detector="none")[0].count == 5
        assert len(set(opened_files)) == len(opened_files) == 5

    @pytest.mark.usefixtures("yunet")
    def test_more_faces_in_a_picture_than_wanted(self, media: Path) -> None:
        assert opened(media / "mosaic5_640x480.jpg", detector="yunet", count=2)[0].count == 2

    def test_of_more_faces_than_wanted_each_is_as_likely(self) -> None:
        hits = np.zeros(10, int)
        for seed in range(400):
            sample = CropSample(SMALL, 3, seed)
            # 10 -> frames of 4, 4 and 2 faces
            for faces in np.split(np.arange(10), [4, 8]):
                assert sample([np.full((9, 9, 3), k, np.uint8) for k in faces]).shape == (len(faces), 1)
            hits[[crop[0, 0, 0] for crop in sample.shuffled()]] += 1
        # Binomial(400, 0.3): mean 120, standard deviation 9.2.
        assert hits.sum() == 1200
        assert 83 <= hits.min() <= hits.max() <= 157

    def test_unreadable_photos_are_named_and_passed_over(self, tmp_path: Path) -> None:
        write(tmp_path / "good.png")
        (tmp_path / "torn.jpg").write_bytes(ASTRONAUT.read_bytes()[:2000])
        found, said = opened(tmp_path, detector="none")
        assert found.count == 1
        assert [line for line in said if "torn.jpg: damaged JPEG" in line and line.endswith("passed over")]


class TestVideos:
    def test_frames_are_spread_evenly(self, tmp_path: Path) -> None:
        clip = write_video(tmp_path / "clip.avi", [np.full((48, 64, 3), 3 * i, np.uint8) for i in range(80)])
        found, _ = opened(clip, count=8, detector="none")
        assert sorted(round(float(c.mean()) / 3) for c in crops_of(found)) == list(range(0, 80, 10))

    def test_more_wanted_than_frames(self, tmp_path: Path) -> None:
        clip = write_video(tmp_path / "clip.avi", [np.full((48, 64, 3), 12 * i, np.uint8) for i in range(20)])
        found, said = opened(clip, count=50, detector="none")
        assert sorted(round(float(c.mean()) / 12) for c in crops_of(found)) == list(range(20))
        assert f"{clip}: only 20 images to calibrate on were found; 50 were asked for" in said

    def test_frames_between_are_looked_at_while_faces_are_missing(self, tmp_path: Path) -> None:
        face = cv2.resize(read(ASTRONAUT), (256, 256))
        # Every tenth frame is looked at first, and none of those has a face; every fifth in between has.
        frames = [np.full_like(face, 90) if i % 10 == 0 else face for i in range(40)]
        found, said = opened(write_video(tmp_path / "clip.avi", frames), count=4)
        assert found.count == 4
        assert said == ["ranges from fewer than 32 images are unreliable; there are 4"]

    def test_a_truncated_video_is_reported_once(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        whole = write_video(tmp_path / "clip.avi", [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(60)])
        data = whole.read_bytes()
        whole.write_bytes(data[: len(data) // 2])
        # Of 20 frames spread over 60 only half can be read, so there is a second pass.
        found, said = opened(whole, count=20, detector="none")
        assert found.count == 20
        assert len([line for line in said if "truncated or damaged" in line]) == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("files", "given", "message"),
        [
            ([], "absent", "absent: no such file or folder"),
            ([], "absent.npz", "absent.npz: no such file or folder"),
            (["d/"], "d", "d: the folder is empty"),
            (["d/a.txt", "d/in/b.csv"], "d", r"none of its 2 files is an image \(\.jpg"),
            (["d/a.txt", "d/clip.mp4"], "d", "a video is to be given by its own path"),
            (["d/a.jpg", "d/in/b.png"], "d", "none of its 2 images can be read"),
            (["a.jpg"], "a.jpg", "a.jpg: is no image"),
            (["a.npz"], "a.npz", "a.npz: not a readable .npz file"),
            (["clip.mp4"], "clip.mp4", "clip.mp4: cannot be opened as a video"),
            (["fer2013.csv"], "fer2013.csv", "fer2013.csv"),
            (["notes.txt"], "notes.txt", "expected a .npz, a folder, an image or a video"),
            (["d/mine/happy/1.png", "d/other/sad/2.png"], "d", r"give one of them \(mine, other\)"),
        ],
        ids=lambda v: v if isinstance(v, str) and " " not in v else "",
    )
    def test_one_line(self, tmp_path: Path, files: list[str], given: str, message: str) -> None:
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                (tmp_path / name).mkdir()
            else:
                (tmp_path / name).write_text("neither pixels nor arrays")
        with pytest.raises(InputError, match=message) as raised:
            opened(tmp_path / given)
        assert "\n" not in str(raised.value)

    def test_no_face_at_all(self, tmp_path: Path) -> None:
        for i in range(3):
            write(tmp_path / f"{i}.png", 80 * i, (100, 100))
        (tmp_path / "torn.png").write_bytes(b"")
        with pytest.raises(InputError, match="3 images, no face found by haar; give pictures with faces"):
            opened(tmp_path)

    def test_no_face_in_a_video(self, tmp_path: Path) -> None:
        clip = write_video(tmp_path / "clip.avi", [np.zeros((48, 64, 3), np.uint8)] * 12)
        with pytest.raises(InputError, match="12 frames, no face found by haar"):
            opened(clip, count=4)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="neither a file nor a folder"):
            opened(tmp_path / "pipe")

    @pytest.mark.parametrize(
        ("options", "error", "code"),
        [
            ({"count": 0}, UsageError, 2),
            ({"detector": "eyes"}, UsageError, 2),
            ({"detector": "yunet"}, UnavailableError, 4),
        ],
        ids=["count", "unknown-detector", "detector-without-model"],
    )
    def test_exit_codes(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        options: dict[str, Any],
        error: type[PosterEdgeError],
        code: int,
    ) -> None:
        monkeypatch.setenv(MODEL_VARIABLE, str(tmp_path / "absent.onnx"))
        with pytest.raises(error) as raised:
            opened(ASTRONAUT, **options)
        assert raised.value.exit_code == code

    def test_haar_in_place_of_yunet_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(MODEL_VARIABLE, raising=False)
        monkeypatch.setattr("poster_edge.vision.yunet.importlib.util.find_spec", lambda _: None)
        found, said = opened(ASTRONAUT, detector="auto", count=1)
        assert found.name == "astronaut.jpg, faces found by haar"
        assert said[0].startswith("face detector: Haar")
