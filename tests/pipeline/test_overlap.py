"""A run whose runtime works by itself: order, truthful times, errors, Ctrl-C, cameras; on a double of CUDA.

The double does its work only when somebody waits for it, and computes with onnxruntime, so that the results can be
compared with those of a run on onnxruntime, which is never overlapped.
"""

from __future__ import annotations

import runpy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poster_edge.errors import InputError, PosterEdgeError
from poster_edge.pipeline.camera import Camera
from poster_edge.pipeline.frame import Frame, FrameResult
from poster_edge.pipeline.jsonl import as_record
from poster_edge.pipeline.report import Tally
from poster_edge.pipeline.runner import run
from poster_edge.pipeline.show import StopRequested
from poster_edge.pipeline.stages import Pipeline
from poster_edge.runtime import trt_plans, trt_runner
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.runtime.device_memory import CudaError
from poster_edge.vision.faces import Face, Image, WholePicture

TensorRtDouble: Any = runpy.run_path(str(Path(__file__).parents[1] / "runtime" / "cuda_double.py"))["TensorRtDouble"]
Before = Callable[[int], None]


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """TensorRT and CUDA replaced below the runner; everything above them is real."""
    made = TensorRtDouble()
    monkeypatch.setattr(trt_runner, "load", lambda flavour: made)
    monkeypatch.setattr(trt_runner, "open_device", made.open)
    monkeypatch.setattr(trt_runner, "require_gpu", lambda index: made.device.gpu)
    monkeypatch.setattr(trt_runner, "choose_package", lambda: "numpy")
    monkeypatch.setattr(trt_plans, "build_plan", lambda tensorrt, onnx, spec, progress, gpu: made.build(onnx))
    monkeypatch.setenv("POSTER_EDGE_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture
def on_double(double: Any, tiny_bundle: Path) -> Iterator[Classifier]:
    with Classifier(load_bundle(tiny_bundle), runtime="tensorrt-rtx") as classifier:
        yield classifier


@pytest.fixture
def on_cpu(tiny_bundle: Path) -> Iterator[Classifier]:
    with Classifier(load_bundle(tiny_bundle), runtime="onnxruntime", device="cpu") as classifier:
        yield classifier


class Frames:
    """A source of pictures that are all different; ``before`` is called with each one's number first."""

    def __init__(self, count: int, *, live: bool = False, before: Before = lambda index: None) -> None:
        self.inputs: list[str] = []
        self.live, self._count, self._before = live, count, before

    def total(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            self._before(index)
            image = np.random.default_rng(index).integers(0, 255, (40, 40, 3), np.uint8)
            yield Frame(index, index / 10, "test", image, 1.0, "live" if self.live else "video", 10.0)


class Halves(WholePicture):
    """Takes as many faces as the frame's first pixel says: none, one or two."""

    def detect(self, bgr: Image, *, fine: bool = False) -> list[Face]:
        boxes = [(0.0, 0.0, 40.0, 20.0), (0.0, 20.0, 40.0, 20.0)]
        return [Face(box, 1.0) for box in boxes[: int(bgr[0, 0, 0]) % 3]]


class Kept:
    """A sink that keeps what it is given; ``at`` is called with each frame's number before it is kept."""

    def __init__(self, at: Before = lambda index: None) -> None:
        self.results: list[FrameResult] = []
        self.end = ""
        self._at = at

    def write(self, result: FrameResult) -> None:
        self._at(result.frame.index)
        self.results.append(result)

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"

    @property
    def indices(self) -> list[int]:
        return [r.frame.index for r in self.results]


def go(source: Any, classifier: Classifier, sink: Kept, detector: Any = None, **options: Any) -> bool:
    return run(source, Pipeline(detector or WholePicture(), classifier), [sink], tally=Tally(), **options)


def raising(error: BaseException, at: int) -> Before:
    def before(index: int) -> None:
        if index == at:
            raise error

    return before


def given_and_waited(double: Any) -> list[str]:
    names = {"copy_to_device": "give", "wait": "wait"}
    return [names[line.split()[0]] for line in double.device.log if line.split()[0] in names]


@pytest.mark.parametrize("detector", [WholePicture(), Halves()], ids=["one face", "none to two"])
def test_the_results_are_onnxruntimes_and_in_order(on_double: Classifier, on_cpu: Classifier, detector: Any) -> None:
    assert on_double.overlaps
    assert not on_cpu.overlaps
    overlapped, plain = Kept(), Kept()
    assert go(Frames(15), on_double, overlapped, detector)
    assert go(Frames(15), on_cpu, plain, detector)
    assert overlapped.indices == plain.indices == list(range(15))
    assert sum(len(r.faces) for r in plain.results) > 10
    for ours, theirs in zip(overlapped.results, plain.results, strict=True):
        assert [f.now.label for f in ours.faces] == [f.now.label for f in theirs.faces]
        for mine, other in zip(ours.faces, theirs.faces, strict=True):
            np.testing.assert_allclose(mine.now.probabilities, other.now.probabilities, atol=1e-6)
    assert overlapped.end == "closed"


def test_a_frame_is_given_to_the_gpu_before_the_one_before_it_is_waited_for(on_double: Classifier, double: Any) -> None:
    go(Frames(4), on_double, Kept())
    assert given_and_waited(double) == ["give", "give", "wait", "give", "wait", "give", "wait", "wait"]


def test_openvino_is_overlapped_and_its_results_are_onnxruntimes(on_cpu: Classifier, tiny_bundle: Path) -> None:
    overlapped, plain = Kept(), Kept()
    with Classifier(load_bundle(tiny_bundle), runtime="openvino") as classifier:
        assert go(Frames(40), classifier, overlapped, Halves())
        assert go(Frames(40), on_cpu, plain, Halves())
    assert overlapped.indices == list(range(40))
    assert any("wait" in r.latency_ms for r in overlapped.results)
    for ours, theirs in zip(overlapped.results, plain.results, strict=True):
        assert len(ours.faces) == len(theirs.faces)
        for mine, other in zip(ours.faces, theirs.faces, strict=True):
            np.testing.assert_allclose(mine.now.probabilities, other.now.probabilities, atol=1e-5)


def test_a_runtime_without_submit_is_not_overlapped(on_cpu: Classifier) -> None:
    order: list[str] = []
    sink = Kept(at=lambda index: order.append(f"out {index}"))
    go(Frames(3, before=lambda index: order.append(f"in {index}")), on_cpu, sink)
    assert order == ["in 0", "out 0", "in 1", "out 1", "in 2", "out 2"]
    assert all("wait" not in r.latency_ms for r in sink.results)
    with pytest.raises(RuntimeError, match="no asynchronous inference"):
        on_cpu.submit([np.zeros((4, 4, 3), np.uint8)])


def test_max_frames_captures_no_further_one(on_double: Classifier) -> None:
    seen: list[int] = []
    sink = Kept()
    go(Frames(9, before=seen.append), on_double, sink, max_frames=3)
    assert seen == sink.indices == [0, 1, 2]


def test_times_are_the_frames_own(on_double: Classifier) -> None:
    """A slow capture of the next frame is waiting, no inference; the sum is the time from capture to result."""
    captured: dict[int, float] = {}

    def before(index: int) -> None:
        time.sleep(0.05)
        captured[index] = time.perf_counter()

    out: dict[int, float] = {}
    sink = Kept(at=lambda index: out.setdefault(index, time.perf_counter()) and None)
    go(Frames(5, before=before), on_double, sink)
    assert [list(r.latency_ms)[-2:] for r in sink.results] == [["infer", "wait"]] * 5
    for result in sink.results[1:-1]:
        clock = result.latency_ms
        # By the double's clock: copy, execute, copy, mark, a millisecond each; and a copy on this side.
        assert 4 <= clock["infer"] < 40
        whole = 1e3 * (out[result.frame.index] - captured[result.frame.index])
        assert 50 <= sum(clock.values()) - clock["capture"] <= whole
        assert "wait" in as_record(result)["latency_ms"]


@pytest.mark.parametrize("error", [InputError("the source broke"), OSError("gone")], ids=["ours", "any"])
def test_a_broken_source_loses_no_result(on_double: Classifier, double: Any, error: Exception) -> None:
    sink = Kept()
    with pytest.raises(type(error), match=str(error)):
        go(Frames(9, before=raising(error, 3)), on_double, sink)
    assert sink.indices == [0, 1, 2]
    assert sink.end == "aborted"
    assert not double.device.events


def test_ctrl_c_while_the_next_frame_is_captured_loses_no_result(on_double: Classifier) -> None:
    sink = Kept()
    assert not go(Frames(9, before=raising(KeyboardInterrupt(), 3)), on_double, sink)
    assert sink.indices == [0, 1, 2]


def test_ctrl_c_ends_a_camera_with_its_last_result(on_double: Classifier) -> None:
    source = Frames(9, live=True, before=raising(KeyboardInterrupt(), 3))
    source.ready = lambda: True  # type: ignore[attr-defined]
    sink = Kept()
    assert go(source, on_double, sink)
    assert (sink.indices, sink.end) == ([0, 1, 2], "closed")


def test_ctrl_c_while_a_result_is_waited_for_is_never_half_a_result(on_double: Classifier, double: Any) -> None:
    wait = double.device.wait

    def interrupted(event: Any, since: Any = None) -> float:
        double.device.wait = wait
        wait(event, since)
        raise KeyboardInterrupt

    double.device.wait = interrupted
    pending = on_double.submit([np.full((40, 40, 3), 90, np.uint8)])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pending.result()


@pytest.mark.parametrize("call", ["copy_to_device", "wait"])
def test_a_failing_gpu_is_one_error_after_what_was_computed(on_double: Classifier, double: Any, call: str) -> None:
    def before(index: int) -> None:
        if index == 3:
            double.device.fail = {call}

    sink = Kept()
    with pytest.raises(CudaError, match=f"could not {call}"):
        go(Frames(9, before=before), on_double, sink)
    double.device.fail = set()
    # Frame 2 was under way: it comes back where only the giving of frame 3 failed.
    assert sink.indices == ([0, 1, 2] if call == "copy_to_device" else [0, 1])


def test_when_both_frames_fail_the_first_failure_is_told(on_double: Classifier, double: Any) -> None:
    def before(index: int) -> None:
        if index == 2:
            double.device.fail = {"wait"}
            raise InputError("the source broke")

    sink = Kept()
    with pytest.raises(PosterEdgeError, match="the source broke"):
        go(Frames(9, before=before), on_double, sink)
    double.device.fail = set()
    assert sink.indices == [0]


def test_the_user_stops_in_the_window(on_double: Classifier, double: Any) -> None:
    sink = Kept(at=raising(StopRequested(), 2))
    assert go(Frames(9), on_double, sink)
    assert (sink.indices, sink.end) == ([0, 1], "closed")
    assert double.device.events, "frame 3 is under way: leaving the runner drops it"


@pytest.mark.parametrize("ready", [True, False], ids=["behind", "ahead"])
def test_a_camera_is_overlapped_only_while_a_newer_picture_waits(
    on_double: Classifier, double: Any, ready: bool
) -> None:
    source = Frames(4, live=True)
    source.ready = lambda: ready  # type: ignore[attr-defined]
    sink = Kept()
    go(source, on_double, sink)
    assert sink.indices == [0, 1, 2, 3]
    assert [("wait" in r.latency_ms) for r in sink.results] == [ready] * 4
    assert given_and_waited(double)[:2] == (["give", "give"] if ready else ["give", "wait"])


def test_a_slow_detector_gets_the_cameras_latest_picture(on_double: Classifier) -> None:
    """The real camera source, a detector that takes as long as three pictures: pictures are passed over."""

    class Capture:
        count = 0

        def read(self) -> tuple[bool, np.ndarray]:
            time.sleep(0.01)
            self.count += 1
            return True, np.full((40, 40, 3), min(self.count, 255), np.uint8)

        def get(self, _: int) -> float:
            return 100.0

        def release(self) -> None: ...

    class Slow(WholePicture):
        def __init__(self) -> None:
            self.seen: list[int] = []
            self.newest_before: list[int] = [0]

        def detect(self, bgr: Image, *, fine: bool = False) -> list[Face]:
            self.seen.append(int(bgr[0, 0, 0]))
            until = capture.count + 3
            while capture.count < until:
                time.sleep(0.001)
            self.newest_before.append(capture.count)
            return super().detect(bgr, fine=fine)

    capture, sink, detector = Capture(), Kept(), Slow()
    camera = Camera("0", notify=print, opener=lambda _: capture)  # type: ignore[arg-type, return-value]
    go(camera, on_double, sink, detector, max_frames=8)
    assert len(sink.indices) == 8
    assert min(np.diff(sink.indices)) >= 2
    # The camera is asked after the detector is done; one picture may be on its way from the driver then.
    for seen, newest in zip(detector.seen, detector.newest_before, strict=False):
        assert seen >= min(newest, 255) - 1
    assert all("wait" in r.latency_ms for r in sink.results)
