"""Sources: files, folders, globs, videos and their strides, JPEGs on standard input, cameras."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from poster_edge.errors import InputError, PosterEdgeError, UnavailableError, UsageError
from poster_edge.pipeline.camera import Camera
from poster_edge.pipeline.capture import masked, open_capture
from poster_edge.pipeline.frame import Frame
from poster_edge.pipeline.jpegs import JpegSplitter, JpegStream
from poster_edge.pipeline.sources import find_files, open_source


def picture(value: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    image = np.full((*shape, 3), 20, np.uint8)
    image[:, : value % shape[1]] = 220
    return image


def write_video(path: Path, count: int = 20, fps: float = 10.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    for index in range(count):
        writer.write(picture(3 * index))
    writer.release()
    return path


def jpegs(count: int) -> list[bytes]:
    return [bytes(cv2.imencode(".jpg", picture(5 * i))[1]) for i in range(count)]


def frames_of(spec: str, **options: object) -> tuple[list[Frame], list[str]]:
    said: list[str] = []
    source = open_source(spec, report=said.append, notify=said.append, **options)  # type: ignore[arg-type]
    return list(source), said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """b.png, a.JPG, notes.txt, .hidden.jpg, clip.avi and a folder with one more image."""
    path = tmp_path_factory.mktemp("media")
    for name in ("b.png", "a.JPG", ".hidden.jpg", "inner/c.jpg"):
        (path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path / name), picture(9))
    (path / "notes.txt").write_text("x")
    write_video(path / "clip.avi", 3)
    return path


class TestFiles:
    def test_folder_is_sorted_and_not_recursive(self, folder: Path) -> None:
        assert [p.name for p in find_files(str(folder))] == ["a.JPG", "b.png", "clip.avi"]
        frames, said = frames_of(str(folder))
        assert [(Path(f.source).name, f.kind, f.index) for f in frames] == [
            ("a.JPG", "image", 0), ("b.png", "image", 0), *[("clip.avi", "video", i) for i in range(3)],
        ]  # fmt: skip
        assert said == []

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [("*.png", ["b.png"]), ("[ab].*", ["a.JPG", "b.png"]), ("**/*.jpg", ["c.jpg"])],
        ids=["star", "set", "recursive"],
    )
    def test_glob(self, folder: Path, pattern: str, names: list[str]) -> None:
        assert [p.name for p in find_files(f"{folder}/{pattern}")] == names

    def test_a_file_whose_name_looks_like_a_glob(self, tmp_path: Path) -> None:
        path = tmp_path / "a[1]%d.png"
        cv2.imwrite(str(tmp_path / "x.png"), picture(9))
        (tmp_path / "x.png").rename(path)
        assert len(frames_of(str(path))[0]) == 1

    def test_unknown_suffixes_are_told_by_content(self, tmp_path: Path) -> None:
        (tmp_path / "photo").write_bytes(jpegs(1)[0])
        write_video(tmp_path / "x.avi", 4).rename(tmp_path / "video")
        assert [len(frames_of(str(tmp_path / n))[0]) for n in ("photo", "video")] == [1, 4]
        assert len(frames_of(f"file://{tmp_path}/photo")[0]) == 1

    @pytest.mark.parametrize("spec", ["none.jpg", "*.jpg", ".", "*.txt"], ids=["missing", "no-match", "empty", "text"])
    def test_nothing_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(InputError):
            find_files(spec)

    def test_a_bad_file_is_named_and_the_rest_goes_on(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"")
        (tmp_path / "b.jpg").write_text("hello")
        (tmp_path / "c.jpg").write_bytes(jpegs(1)[0])
        (tmp_path / "d.mp4").write_bytes(b"junk")
        frames, said = frames_of(str(tmp_path))
        assert [Path(f.source).name for f in frames] == ["c.jpg"]
        assert [Path(s.split(":")[0]).name for s in said] == ["a.jpg", "b.jpg", "d.mp4"]


class TestVideo:
    @pytest.mark.parametrize(("stride", "indices"), [(1, range(20)), (3, range(0, 20, 3)), (50, range(1))], ids=str)
    def test_stride(self, tmp_path: Path, stride: int, indices: range) -> None:
        path = write_video(tmp_path / "clip.avi")
        source = open_source(str(path), report=print, notify=print, vid_stride=stride)
        frames = list(source)
        assert [f.index for f in frames] == list(indices)
        assert source.total() == len(indices)
        assert [f.time_s for f in frames] == pytest.approx([i / 10 for i in indices])
        assert {f.fps for f in frames} == {10 / stride}
        # The frames are the right ones: the bright part is 3 px wider each time.
        assert [int((f.image[24, :, 0] > 120).sum()) for f in frames] == pytest.approx([3 * i for i in indices], abs=2)

    def test_truncated(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "clip.avi")
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        frames, said = frames_of(str(path))
        assert 5 <= len(frames) < 18
        assert len(said) == 1
        assert f"only {len(frames)} of 20 frames" in said[0]

    def test_a_whole_clip_is_not_called_truncated(self, media: Path) -> None:
        frames, said = frames_of(str(media / "panzoom_640x480_25fps.mp4"), vid_stride=50)
        assert (len(frames), said) == (4, [])

    def test_mp4_without_its_index(self, tmp_path: Path, media: Path) -> None:
        path = tmp_path / "cut.mp4"
        path.write_bytes((media / "panzoom_640x480_25fps.mp4").read_bytes()[:500_000])
        frames, said = frames_of(str(path))
        # Where the index stands at the end nothing can be read, else the rest is missing.
        assert len(said) == 1
        assert len(frames) < 200

    @pytest.mark.parametrize("text", ["#EXTM3U\n/etc/passwd\n", "ffconcat version 1.0\nfile other.mp4\n"])
    def test_play_lists_open_no_other_file(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "clip.mp4").write_text(text)
        frames, said = frames_of(str(tmp_path / "clip.mp4"))
        assert frames == []
        assert "play list" in said[0]


class TestJpegStream:
    def test_ready_tells_whether_the_next_frame_is_there(self) -> None:
        """From a pipe whose writer pauses: a result must not be held back for a frame that has not come."""
        (one, two, three), (reader, writer) = jpegs(3), os.pipe()
        with os.fdopen(reader, "rb") as stream, os.fdopen(writer, "wb", buffering=0) as out:
            source = JpegStream(stream, report=print)
            frames = iter(source)
            assert not source.ready()
            out.write(one + two)
            assert source.ready()
            next(frames)
            assert source.ready()
            next(frames)
            assert not source.ready()
            out.write(three[:20])
            assert source.ready()
            out.write(three[20:])
            next(frames)
            out.close()
            assert source.ready()
            assert next(frames, None) is None

    def test_frames_that_are_skipped_do_not_count(self) -> None:
        images, (reader, writer) = jpegs(6), os.pipe()
        with os.fdopen(reader, "rb") as stream, os.fdopen(writer, "wb", buffering=0) as out:
            source = JpegStream(stream, report=print, vid_stride=3)
            frames = iter(source)
            out.write(images[0] + images[1])
            next(frames)
            assert not source.ready(), "frame 1 is skipped, and 2 would be"
            out.write(images[2] + images[3])
            assert not source.ready(), "frame 2 is still in the pipe"
            assert next(frames).index == 3
            out.write(images[4] + images[5] + images[0])
            out.close()
            assert next(frames).index == 6

    @pytest.mark.parametrize("block", [1, 7, 1000, 1 << 20])
    def test_splitter_finds_every_frame_whatever_the_blocks(self, block: int) -> None:
        images = jpegs(3)
        data = b"".join(images)
        splitter = JpegSplitter()
        found = [f for i in range(0, len(data), block) for f in splitter.feed(data[i : i + block])]
        assert found == images
        assert (splitter.skipped, splitter.pending) == (0, 0)

    def stream(self, data: bytes, stride: int = 1) -> tuple[list[Frame], list[str]]:
        said: list[str] = []
        return list(JpegStream(io.BytesIO(data), report=said.append, vid_stride=stride)), said

    def test_truncated_last_frame_is_reported(self) -> None:
        frames, said = self.stream(b"".join(jpegs(3))[:-30])
        assert len(frames) == 2
        assert said == ["standard input: frame 2 is truncated: the stream ended inside it"]

    def test_truncated_middle_frame_does_not_swallow_the_next(self) -> None:
        first, second, third = jpegs(3)
        frames, said = self.stream(first + second[:-25] + third)
        assert len(frames) == 2
        assert "skipped" in said[0]
        assert len(said) == 1

    def test_rubbish_between_frames(self) -> None:
        frames, said = self.stream(b"--boundary\r\n".join([b"", *jpegs(3)]))
        assert len(frames) == 3
        assert f"{3 * len(b'--boundary') + 6} bytes" in said[0]

    def test_stride(self) -> None:
        frames, said = self.stream(b"".join(jpegs(7)), 3)
        assert [f.index for f in frames] == [0, 3, 6]
        assert said == []

    @pytest.mark.parametrize("data", [b"", b"hello"], ids=["empty", "text"])
    def test_no_jpeg_at_all(self, data: bytes) -> None:
        with pytest.raises(InputError, match="JPEG"):
            self.stream(data)

    def test_terminal(self) -> None:
        class Terminal(io.BytesIO):
            def isatty(self) -> bool:
                return True

        with pytest.raises(UsageError, match="pipe"):
            open_source("-", report=print, notify=print, stdin=Terminal())


class TestCamera:
    """The camera is a video file: OpenCV opens both the same way, and a file's end is a loss."""

    @pytest.fixture
    def clip(self, tmp_path: Path) -> Path:
        return write_video(tmp_path / "clip.avi", 12)

    def take(self, camera: Camera, count: int) -> Iterator[Frame]:
        with closing(iter(camera)) as frames:  # type: ignore[type-var]
            for _ in range(count):
                yield next(frames)

    def test_reconnects_and_says_so_once_each_time(self, clip: Path) -> None:
        said: list[str] = []
        opened = 0

        def opener(_: str) -> cv2.VideoCapture:
            nonlocal opened
            opened += 1
            if opened in (2, 3):
                raise UnavailableError("still away")
            return slow(cv2.VideoCapture(str(clip)))

        before = threading.active_count()
        camera = Camera("0", notify=said.append, opener=opener, stall_s=10)
        frames = list(self.take(camera, 16))
        assert [f.kind for f in frames] == ["live"] * 16
        indices = [f.index for f in frames]
        assert indices == sorted(set(indices))
        assert opened >= 4
        assert ["back" in s for s in said] == [False, True] * (len(said) // 2)
        assert soon(lambda: threading.active_count() == before)

    def test_keeps_only_the_latest_picture(self) -> None:
        class Endless:
            count = 0

            def read(self) -> tuple[bool, np.ndarray]:
                time.sleep(0.005)
                self.count += 1
                return True, picture(self.count)

            def get(self, _: int) -> float:
                return 0.0

            def release(self) -> None:
                pass

        source = Endless()
        camera = Camera("0", notify=print, opener=lambda _: source)  # type: ignore[arg-type,return-value]
        with closing(iter(camera)) as frames:  # type: ignore[type-var]
            first = next(frames)
            seen = source.count
            assert soon(lambda: source.count > seen + 5)
            second = next(frames)
        assert second.index - first.index >= 5
        assert second.time_s > 0

    def test_a_hanging_camera_is_abandoned(self, clip: Path) -> None:
        release = threading.Event()

        class Hangs:
            def __init__(self) -> None:
                self.count = 0

            def read(self) -> tuple[bool, np.ndarray]:
                self.count += 1
                if self.count > 2:
                    release.wait(30)
                return True, picture(3)

            def get(self, _: int) -> float:
                return 0.0

            def release(self) -> None:
                pass

        camera = Camera("0", notify=lambda _: None, opener=lambda _: Hangs(), stall_s=0.05)  # type: ignore[arg-type,return-value]
        with pytest.raises(PosterEdgeError, match="hangs"):
            list(self.take(camera, 1000))
        release.set()

    def test_gives_no_picture(self, tmp_path: Path) -> None:
        camera = Camera("0", notify=print, opener=lambda _: cv2.VideoCapture(str(tmp_path / "none.avi")))
        with pytest.raises(UnavailableError, match="no picture"):
            next(iter(camera))

    @pytest.mark.parametrize(
        "spec", ["99", "/dev/video99", "v4l2:///dev/video99", "csi://0", "csi://x", "rtsp://127.0.0.1:9/a"]
    )
    def test_not_there(self, spec: str) -> None:
        if spec == "csi://0" and "GStreamer:                   YES" in cv2.getBuildInformation():
            pytest.skip("this OpenCV has GStreamer")
        with pytest.raises(UnavailableError) as caught:
            open_capture(spec)
        assert "\n" not in str(caught.value)

    def test_passwords_are_not_shown(self) -> None:
        assert masked("rtsp://me:secret@cam.local/1") == "rtsp://***@cam.local/1"
        with pytest.raises(UnavailableError) as caught:
            open_capture("rtsp://me:secret@127.0.0.1:9/1")
        assert "secret" not in str(caught.value)


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within 20 s; a machine at work on something else takes its time."""
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def slow(capture: cv2.VideoCapture) -> cv2.VideoCapture:
    """The capture with 20 ms between pictures, as a camera has."""

    class Slow:
        def read(self) -> tuple[bool, np.ndarray]:
            time.sleep(0.02)
            return capture.read()

        def __getattr__(self, name: str) -> object:
            return getattr(capture, name)

    return Slow()  # type: ignore[return-value]


def test_importing_them_needs_no_torch() -> None:
    modules = ["cli.run", "pipeline.stages", "pipeline.camera", "pipeline.save", "vision.detect"]
    code = f"import sys, {', '.join('poster_edge.' + m for m in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
