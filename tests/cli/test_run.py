"""``poster-edge run`` as a user calls it: output, files, exit codes, and one line for each mistake."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

import poster_edge
from poster_edge.cli.main import main
from poster_edge.config import DEFAULT_MODEL
from poster_edge.runtime.bundle import zoo_names
from poster_edge.vision.yunet import MODEL_NAME, MODEL_VARIABLE

ROOT = Path(poster_edge.__file__).parent.parent
SAMPLE = Path(poster_edge.__file__).parent / "zoo" / "samples" / "astronaut.jpg"
CLASSES = {"angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"}


@dataclass
class Outcome:
    """Exit code and the two streams of one call."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.lower().startswith("error")]

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tiny_bundle: Path) -> Run:
    """Call ``poster-edge run`` in this process, with a tiny model and the Haar detector unless told otherwise."""

    def call(*args: object, stdin: bytes = b"", model: object = tiny_bundle, detector: str = "haar") -> Outcome:
        words = ["poster-edge", "run", "--model", model, "--detector", detector, *args]
        monkeypatch.setattr(sys, "argv", [str(w) for w in words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Outcome(int(ended.value.code or 0), out, err)

    return call


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """(h, w, 3) picture with one face that both detectors find."""
    return read(SAMPLE)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, face: np.ndarray) -> Path:
    """12 frames at 10 a second with the face moving right."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    small = cv2.resize(face, (320, 320))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 320))
    for index in range(12):
        writer.write(np.roll(small, 4 * index, axis=1))
    writer.release()
    return path


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return np.asarray(image, np.uint8)


def jpeg(picture: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", picture)[1])


class TestOutput:
    def test_image_prints_one_line_and_a_summary(self, run: Run) -> None:
        done = run("--source", SAMPLE)
        assert done.code == 0
        assert done.out.startswith(f"{SAMPLE}: 1 face: ")
        assert done.out.count("\n") == 1
        assert "1 frame, 1 face" in done.err
        assert "haar + tiny" in done.err
        assert [w in done.err for w in ("median", "p90", "detect", "infer")] == [True] * 4

    def test_json_line_has_the_contracts_fields(self, run: Run) -> None:
        done = run("-s", SAMPLE, "--jsonl", "-")
        (record,) = done.records
        assert list(record) == ["frame", "time_s", "source", "faces", "latency_ms", "runtime"]
        assert record["source"] == str(SAMPLE)
        (found,) = record["faces"]
        assert list(found) == ["box", "score", "track", "label", "probabilities", "steady"]
        assert found["track"] is found["steady"] is None
        assert len(found["box"]) == 4
        assert 0.6 <= found["score"] <= 1
        assert set(found["probabilities"]) == CLASSES
        assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert found["label"] == max(found["probabilities"], key=found["probabilities"].get)
        assert list(record["latency_ms"]) == ["capture", "detect", "align", "preprocess", "infer"]

    def test_video_prints_a_summary_only(self, run: Run, clip: Path) -> None:
        done = run("-s", clip)
        assert (done.code, done.out) == (0, "")
        assert "12 frames" in done.err

    def test_json_lines_of_a_video_go_to_a_file(self, run: Run, clip: Path, tmp_path: Path) -> None:
        target = tmp_path / "new" / "out.jsonl"
        done = run("-s", clip, "--jsonl", target, "--vid-stride", 5, "--max-frames", 2)
        assert (done.code, done.out) == (0, "")
        records = [json.loads(line) for line in target.read_text().splitlines()]
        assert [(r["frame"], r["time_s"]) for r in records] == [(0, 0.0), (5, 0.5)]

    def test_no_face_is_no_error(self, run: Run, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "blank.png"), np.zeros((100, 100, 3), np.uint8))
        done = run("-s", tmp_path / "blank.png", "--save", tmp_path / "out.png")
        assert done.code == 0
        assert "no faces" in done.out
        assert (tmp_path / "out.png").exists()

    def test_none_takes_each_picture_for_a_face(self, run: Run, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "crop.png"), np.full((48, 48), 99, np.uint8))
        (record,) = run("-s", tmp_path / "crop.png", "--jsonl", "-", detector="none").records
        assert record["faces"][0]["box"] == [0, 0, 48, 48]

    def test_faces_of_a_video_are_followed_and_averaged(self, run: Run, clip: Path) -> None:
        done = run("-s", clip, "--jsonl", "-")
        assert "12 faces, 1 track" in done.err
        assert list(done.records[0]["latency_ms"])[-1] == "track"
        faces = [r["faces"][0] for r in done.records]
        assert [f["track"] for f in faces] == [1] * 12
        assert list(faces[0]["steady"]) == ["label", "probabilities"]
        assert faces[0]["steady"]["probabilities"] == faces[0]["probabilities"]
        rows = np.array([[f["probabilities"][name] for name in sorted(CLASSES)] for f in faces])
        steady = np.array([[f["steady"]["probabilities"][name] for name in sorted(CLASSES)] for f in faces])
        assert np.abs(np.diff(steady[3:], axis=0)).sum() < np.abs(np.diff(rows[3:], axis=0)).sum()

    def test_known_faces_are_looked_for_where_they_were(self, run: Run, clip: Path) -> None:
        every, seldom = (run("-s", clip, "--jsonl", "-", "--detect-every", s).records for s in (0, 10))
        for one, other in zip(every, seldom, strict=True):
            (a,), (b,) = one["faces"], other["faces"]
            assert a["track"] == b["track"] == 1
            assert b["box"] == pytest.approx(a["box"], abs=0.15 * a["box"][3])

    def test_smooth_0_follows_and_averages_nothing(self, run: Run, clip: Path) -> None:
        done = run("-s", clip, "--jsonl", "-", "--smooth", 0)
        assert {(f["track"], f["steady"]) for r in done.records for f in r["faces"]} == {(1, None)}

    def test_what_is_not_probable_enough_is_uncertain(self, run: Run, clip: Path, tmp_path: Path) -> None:
        photo = run("-s", SAMPLE, "--min-probability", 1)
        assert f"{SAMPLE}: 1 face: uncertain (" in photo.out
        assert "; uncertain 1" in photo.err
        done = run("-s", clip, "--min-probability", 1, "--jsonl", "-", "--save", tmp_path / "out.avi")
        assert {(f["label"], f["steady"]["label"]) for r in done.records for f in r["faces"]} == {(None, None)}
        assert "; uncertain 12" in done.err

    def test_jpegs_on_stdin(self, run: Run, face: np.ndarray) -> None:
        done = run("-s", "-", "--jsonl", "-", stdin=jpeg(face) * 3)
        assert done.code == 0
        assert [(r["frame"], r["source"], len(r["faces"])) for r in done.records] == [(i, "stdin", 1) for i in range(3)]

    def test_conf_drops_weak_faces(self, run: Run) -> None:
        assert "no faces" in run("-s", SAMPLE, "--conf", "1").out

    def test_haar_is_announced_once(self, run: Run, monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
        monkeypatch.delenv(MODEL_VARIABLE, raising=False)
        monkeypatch.setattr("poster_edge.vision.yunet.importlib.util.find_spec", lambda _: None)
        assert run("-s", clip, detector="auto").err.count("poster-edge[faces]") == 1


class TestSave:
    def test_image(self, run: Run, tmp_path: Path, face: np.ndarray) -> None:
        assert run("-s", SAMPLE, "--save", tmp_path / "deep" / "out.png").code == 0
        saved = read(tmp_path / "deep" / "out.png")
        assert saved.shape == face.shape
        assert 0.01 < (saved != face).any(axis=2).mean() < 0.5
        assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out.png"]

    def test_blur_hides_the_face(self, run: Run, tmp_path: Path, face: np.ndarray) -> None:
        run("-s", SAMPLE, "--save", tmp_path / "out.png", "--blur")
        (record,) = run("-s", SAMPLE, "--jsonl", "-").records
        x, y, w, h = (int(v) for v in record["faces"][0]["box"])
        inner = np.s_[y + h // 4 : y + 3 * h // 4, x + w // 4 : x + 3 * w // 4]
        sharpness = [
            cv2.Laplacian(cv2.cvtColor(i[inner], cv2.COLOR_BGR2GRAY), cv2.CV_64F).var()
            for i in (face, read(tmp_path / "out.png"))
        ]
        assert sharpness[1] < sharpness[0] / 50

    def test_several_images_go_into_a_folder(self, run: Run, tmp_path: Path, face: np.ndarray) -> None:
        for name in ("one/a.jpg", "two/a.jpg", "two/b.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name), face)
        assert run("-s", f"{tmp_path}/*/*", "--save", tmp_path / "out").code == 0
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a-2.jpg", "a.jpg", "b.png"]

    @pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ""], ids=["mp4", "avi", "mkv", "folder"])
    def test_video_has_all_frames_and_its_rate(self, run: Run, tmp_path: Path, clip: Path, suffix: str) -> None:
        target = tmp_path / f"out{suffix}"
        assert run("-s", clip, "--save", target, "--vid-stride", 2).code == 0
        (saved,) = [target] if suffix else list(target.iterdir())
        capture = cv2.VideoCapture(str(saved))
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(5)
        count = 0
        while capture.read()[0]:
            count += 1
        assert count == 6

    def test_stdin_of_changing_size_becomes_one_video(self, run: Run, tmp_path: Path, face: np.ndarray) -> None:
        data = jpeg(face) + jpeg(cv2.resize(face, (320, 200)))
        assert run("-s", "-", "--save", tmp_path / "out.mp4", stdin=data).code == 0
        assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2

    @pytest.mark.parametrize(
        ("source", "target"),
        [("a.jpg", "a.jpg"), (".", "."), ("a.jpg", "x.txt"), (".", "x.jpg"), ("a.jpg", "x.mp4"), ("clip.avi", "x.png")],
        ids=["itself", "own-folder", "unknown", "many-into-one", "image-as-video", "video-as-image"],
    )
    def test_impossible_targets(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path, source: str, target: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for path in (Path("a.jpg"), Path("b.jpg")):
            path.write_bytes(SAMPLE.read_bytes())
        Path("clip.avi").write_bytes(clip.read_bytes())
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        done = run("-s", source, "--save", target)
        assert (done.code, len(done.errors)) == (2, 1)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    def test_jsonl_does_not_overwrite_the_input(self, run: Run, tmp_path: Path) -> None:
        copy = tmp_path / "a.jpg"
        copy.write_bytes(SAMPLE.read_bytes())
        assert run("-s", copy, "--jsonl", copy).code == 2
        assert copy.read_bytes() == SAMPLE.read_bytes()

    @pytest.mark.parametrize("target", ["out.png", "out.mp4", "out.jsonl"])
    def test_disk_full(self, tmp_path: Path, tiny_bundle: Path, clip: Path, target: str) -> None:
        source = SAMPLE if target.endswith("png") else clip
        option = "--jsonl" if target.endswith("jsonl") else "--save"
        done = script(
            "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))",
            ["--model", tiny_bundle, "-s", source, option, tmp_path / target, "--detector", "none"],
        )
        assert done.returncode == 1, done.stderr
        assert done.stderr.lower().count("error") == done.stderr.count("error: cannot write") == 1
        assert "Traceback" not in done.stderr
        assert [p.name for p in tmp_path.iterdir() if not p.name.endswith("jsonl")] == []

    def test_interrupted_video_leaves_no_file(self, tmp_path: Path, tiny_bundle: Path, clip: Path) -> None:
        words = [
            "--model",
            tiny_bundle,
            "-s",
            "-",
            "--save",
            tmp_path / "out.mp4",
            "--detector",
            "none",
            "--jsonl",
            "-",
        ]
        process = subprocess.Popen(
            command("", words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(SAMPLE.read_bytes())
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"{")
        assert any(tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130
        assert b"1 frame" in err
        assert b"Traceback" not in err
        assert list(tmp_path.iterdir()) == []


def command(before: str, words: list[object]) -> list[str]:
    code = f"{before}\nfrom poster_edge.cli.main import main\nmain()"
    return [sys.executable, "-c", code, "run", *(str(w) for w in words)]


def script(before: str, words: list[object], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(before, words), capture_output=True, text=True, cwd=ROOT, timeout=120, **options)  # type: ignore[call-overload]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("hello")


def cut_jpeg(path: Path) -> None:
    path.write_bytes(SAMPLE.read_bytes()[:20_000])


def bomb(path: Path) -> None:
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0\0\0\0\0"
    path.write_bytes(header + b"\x7f\xff\xff\xffIDAT" + bytes(1000))


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "make"),
        [("a.jpg", empty), ("a.jpg", text), ("a.jpg", cut_jpeg), ("a.png", bomb), ("a.mp4", empty), ("a.mp4", text)],
        ids=["empty", "text.jpg", "cut-jpeg", "png-bomb", "empty-video", "text-video"],
    )
    @pytest.mark.parametrize("beside_a_good_one", [False, True], ids=["alone", "in-a-folder"])
    def test_unreadable_file(
        self, run: Run, tmp_path: Path, name: str, make: Callable[[Path], None], beside_a_good_one: bool
    ) -> None:
        make(tmp_path / name)
        if beside_a_good_one:
            (tmp_path / "good.jpg").write_bytes(SAMPLE.read_bytes())
        done = run("-s", tmp_path if beside_a_good_one else tmp_path / name)
        assert done.code == 1
        assert len(done.errors) == 1
        assert name in done.errors[0]
        assert done.out.count("1 face") == beside_a_good_one
        assert ("1 unreadable" in done.err) == beside_a_good_one
        if not beside_a_good_one:
            assert done.err.count("\n") == 1

    def test_truncated_video(self, run: Run, tmp_path: Path, clip: Path) -> None:
        path = tmp_path / "cut.avi"
        path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        done = run("-s", path, "--jsonl", "-", "--save", tmp_path / "out.mp4")
        assert done.code == 1
        assert 3 <= len(done.records) < 10
        assert len(done.errors) == 1
        assert "of 12 frames" in done.errors[0]
        saved = cv2.VideoCapture(str(tmp_path / "out.mp4"))
        assert saved.get(cv2.CAP_PROP_FRAME_COUNT) == len(done.records)

    def test_truncated_mp4(self, run: Run, tmp_path: Path, media: Path) -> None:
        path = tmp_path / "cut.mp4"
        path.write_bytes((media / "panzoom_640x480_25fps.mp4").read_bytes()[:300_000])
        done = run("-s", path, detector="none")
        assert (done.code, len(done.errors)) == (1, 1)

    def test_truncated_stdin(self, run: Run, face: np.ndarray) -> None:
        done = run("-s", "-", stdin=jpeg(face) + jpeg(face)[:-50])
        assert (done.code, len(done.errors)) == (1, 1)
        assert "1 frame, 1 face" in done.err

    @pytest.mark.parametrize(
        ("args", "code"),
        [
            (("-s", "missing.jpg"), 1),
            (("-s", "*.jpg"), 1),
            (("-s", "."), 1),
            (("-s", "-"), 1),
            (("--camera", "99"), 4),
            (("-s", "99"), 4),
            (("-s", "/dev/video99"), 4),
            (("-s", "csi://0"), 4),
            (("-s", "rtsp://user:secret@127.0.0.1:9/x"), 4),
            ((), 2),
            (("-s", ""), 2),
            (("-s", "x.jpg", "--camera", "0"), 2),
            (("-s", "x.jpg", "--vid-stride", "0"), 2),
            (("-s", "x.jpg", "--conf", "2"), 2),
            (("-s", "x.jpg", "--blur"), 2),
            (("-s", "x.jpg", "--smooth", "-1"), 2),
            (("-s", "x.jpg", "--smooth", "nan"), 2),
            (("-s", "x.jpg", "--min-probability", "1.5"), 2),
            (("-s", str(SAMPLE), "--smooth", "1"), 2),
            (("-s", str(SAMPLE), "--detect-every", "1"), 2),
            (("-s", "x.mp4", "--detect-every", "1", "--detector", "none"), 2),
            (("-s", "x.mp4", "--detect-every", "1", "--blur", "--save", "y.mp4"), 2),
            (("-s", str(SAMPLE), "--vid-stride", "2"), 2),
            (("-s", "x.jpg", "--detector-model", "x.onnx"), 2),
            (("-s", "x.jpg", "--runtime", "magic"), 2),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
    )
    def test_one_line_and_the_right_code(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], code: int
    ) -> None:
        monkeypatch.chdir(tmp_path)
        done = run(*args)
        assert done.code == code
        assert len(done.errors) == 1
        assert done.out == ""
        assert "secret" not in done.err

    @pytest.mark.parametrize("damage", ["missing", "manifest", "byte"])
    def test_broken_bundle(self, run: Run, tmp_path: Path, tiny_bundle: Path, damage: str) -> None:
        folder = tmp_path / "bundle"
        if damage != "missing":
            folder.mkdir()
            for path in tiny_bundle.iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
            target = folder / ("manifest.json" if damage == "manifest" else "model.onnx")
            data = bytearray(target.read_bytes())
            data[len(data) // 2] ^= 0x80
            target.write_bytes(data)
        done = run("-s", SAMPLE, model=folder)
        assert (done.code, len(done.errors)) == (4, 1)

    def test_yunet_by_name_without_its_model(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(MODEL_VARIABLE, raising=False)
        monkeypatch.setattr("poster_edge.vision.yunet.importlib.util.find_spec", lambda _: None)
        done = run("-s", SAMPLE, detector="yunet")
        assert (done.code, len(done.errors)) == (4, 1)

    def test_show_without_a_window(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        done = run("-s", SAMPLE, "--show")
        assert (done.code, len(done.errors)) == (4, 1)

    def test_reader_of_stdout_goes_away(self, tiny_bundle: Path, clip: Path) -> None:
        words = ["--model", tiny_bundle, "-s", clip, "--jsonl", "-", "--detector", "none"]
        process = subprocess.Popen(command("", words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        # click itself ends with 1 here, our own main with 141.
        assert process.wait(120) in (1, 141)
        assert b"Traceback" not in err


class TestRealThing:
    """The default bundle and YuNet on the shared media, both where present."""

    @pytest.fixture
    def default(self) -> str:
        if DEFAULT_MODEL not in zoo_names():
            pytest.skip("the default bundle is not packed yet")
        return DEFAULT_MODEL

    @pytest.fixture(autouse=True)
    def yunet(self, monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
        monkeypatch.setenv(MODEL_VARIABLE, str(shared / "models" / MODEL_NAME))

    @pytest.mark.parametrize(
        ("name", "count"),
        [("astronaut.png", 1), ("grace_hopper.jpg", 1), ("two_people.jpg", 2), ("mosaic5_640x480.jpg", 5)],
    )
    def test_photos(self, run: Run, media: Path, default: str, name: str, count: int) -> None:
        (record,) = run("-s", media / name, "--jsonl", "-", model=default, detector="auto").records
        assert len(record["faces"]) == count

    def test_the_smile_is_happy(self, run: Run, media: Path, default: str) -> None:
        (record,) = run("-s", media / "astronaut.png", "--jsonl", "-", model=default, detector="yunet").records
        assert record["faces"][0]["label"] == "happy"

    def test_faces_at_the_edge_and_in_the_corner(
        self, run: Run, media: Path, tmp_path: Path, tiny_bundle: Path
    ) -> None:
        portrait = read(media / "grace_hopper.jpg")
        cv2.imwrite(str(tmp_path / "edge.png"), portrait[130:, 180:360])
        done = run("-s", tmp_path, "--save", tmp_path / "out", "--jsonl", "-", detector="yunet")
        assert done.code == 0
        (record,) = done.records
        assert len(record["faces"]) == 1

    def test_a_clip_with_cuts_is_followed_and_flickers_less(self, run: Run, media: Path, default: str) -> None:
        clip = media / "short_hamilton_clip_noaudio.mp4"
        records = run("-s", clip, "--jsonl", "-", model=default, detector="yunet").records
        raw, steady, last = 0, 0, {}
        for face in (f for r in records for f in r["faces"]):
            labels = face["label"], face["steady"]["label"]
            before = last.get(face["track"], labels)
            raw, steady = raw + (labels[0] != before[0]), steady + (labels[1] != before[1])
            last[face["track"]] = labels
        assert steady < raw / 4
        for record in records:
            tracks = [f["track"] for f in record["faces"]]
            assert len(set(tracks)) == len(tracks)

    def test_clip_is_processed_and_saved(self, run: Run, media: Path, tmp_path: Path) -> None:
        clip = media / "short_hamilton_clip_noaudio.mp4"
        done = run("-s", clip, "--vid-stride", 25, "--save", tmp_path / "out.mp4", "--jsonl", "-", detector="yunet")
        assert done.code == 0
        assert len(done.records) == 11
        assert all(1 <= len(r["faces"]) <= 8 for r in done.records)
        assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 11


def test_camera_ends_with_the_summary_on_ctrl_c(tmp_path: Path, tiny_bundle: Path, clip: Path) -> None:
    # A video file stands in for the camera; OpenCV opens both alike.
    before = (
        "import cv2, time\nimport poster_edge.pipeline.camera as c\n"
        f"c.Camera.__init__.__kwdefaults__['opener'] = lambda spec: cv2.VideoCapture({str(clip)!r})\n"
    )
    words = [
        "--model",
        tiny_bundle,
        "--camera",
        0,
        "--jsonl",
        "-",
        "--save",
        tmp_path / "cam.mp4",
        "--detector",
        "none",
    ]
    process = subprocess.Popen(
        command(before, words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        # A test run in a script's background inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["source"] == "0"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert b"median" in err
    assert cv2.VideoCapture(str(tmp_path / "cam.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) >= 1
    assert os.listdir(tmp_path) == ["cam.mp4"]  # noqa: PTH208
