"""Candidates in processes of their own: turns, memory, errors, and nothing left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from poster_edge.bench.candidates import Candidate, Comparison
from poster_edge.bench.measure import FEWEST_ROUNDS, measure, take_turns
from poster_edge.bench.noise import Watch
from poster_edge.bench.process import CandidateError, Process
from poster_edge.bench.work import Frames
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.classifier import Classifier


def candidate(bundle: Path, **changes: object) -> Candidate:
    values: dict[str, object] = {"runtime": "onnxruntime", "precision": "fp32", "threads": 1, "device": "cpu"}
    return Candidate(model=str(bundle), name="tiny", **{**values, **changes})  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Fake:
    """Takes the time that it says."""

    def __init__(self, name: str, ms: float, order: list[str]) -> None:
        self.name, self.ms, self.order = name, ms, order

    def turn(self, calls: int) -> np.ndarray:
        self.order.append(self.name)
        return np.full(calls, self.ms)


def test_candidates_take_turns_of_equal_length() -> None:
    order: list[str] = []
    watch = Watch([os.getpid()])
    watch.start()
    shares: list[float] = []
    found = take_turns([Fake("a", 50.0, order), Fake("b", 1000.0, order)], 6.0, watch, shares.append)
    assert "".join(order) == "ab" * len(found[0])
    assert [len(r) for r in found[0][:2]] == [1, 5]
    assert {len(r) for r in found[1]} == {1}
    timed = sum(float(r.sum()) for rounds in found for r in rounds)
    assert 12_000 <= timed < 12_000 + 1250
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_slow_candidate_still_gets_its_rounds() -> None:
    watch = Watch([os.getpid()])
    watch.start()
    (rounds,) = take_turns([Fake("a", 9000.0, [])], 1.0, watch)
    assert len(rounds) == FEWEST_ROUNDS


@pytest.fixture(scope="module")
def opened(tiny_bundle: Path):
    with Process(candidate(tiny_bundle, batch=3)) as process:
        yield process, process.open()


def test_opened_candidate(opened, tiny_bundle: Path) -> None:
    process, said = opened
    assert said.description.startswith("onnxruntime")
    assert (said.file, said.file_bytes) == ("model.onnx", (tiny_bundle / "model.onnx").stat().st_size)
    assert process.turn(4).shape == (4,)
    memory = process.memory()
    assert said.base_mib < memory["rss"] <= memory["peak"]
    assert process.stages() == {}


def test_same_answers_as_the_classifier(opened, tiny_bundle: Path) -> None:
    process, _ = opened
    crops = [np.random.default_rng(i).integers(0, 255, (20, 20, 3), dtype=np.uint8) for i in range(5)]
    with Classifier(load_bundle(tiny_bundle), runtime="onnxruntime", device="cpu") as classifier:
        np.testing.assert_array_equal(process.logits(crops), classifier.logits(crops))


def test_two_candidates_measured(tiny_bundle: Path) -> None:
    comparison = Comparison("model", 1, 1, (candidate(tiny_bundle, baseline=True), candidate(tiny_bundle, batch=2)))
    pids: list[int] = []
    found, noise = measure(comparison, duration_s=0.2, afterwards=lambda process: pids.append(process.pid))
    assert [len(m.rounds) for m in found] == [len(found[0].rounds)] * 2
    assert len(found[0].rounds) >= FEWEST_ROUNDS
    assert all(m.times.min() > 0 and m.memory["rss"] > 20 for m in found)
    assert noise.work_ms > 0
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    assert not any(alive(pid) for pid in pids)


def test_a_frame_goes_through_the_stages(tiny_bundle: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((60, 80, 3), 90, np.uint8))
    comparison = Comparison("frame", 1, 1, (candidate(tiny_bundle, scope="frame"),))
    frames = Frames(str(tmp_path / "a.png"), detector="none")
    (found,), _ = measure(comparison, duration_s=0.1, frames=frames)
    assert set(found.stages) == {"detect", "align", "preprocess", "infer", "faces"}
    assert found.stages["faces"] == 1
    assert found.opened.description.startswith("none + onnxruntime")


def test_what_cannot_serve_is_left_out_unless_it_was_asked_for(tiny_bundle: Path) -> None:
    told: list[str] = []
    wrong = candidate(tiny_bundle, precision="int8")
    found, _ = measure(Comparison("model", 1, 1, (candidate(tiny_bundle), wrong)), duration_s=0.01, notify=told.append)
    assert [m.candidate.precision for m in found] == ["fp32"]
    assert "onnxruntime int8 is left out" in told[0]
    asked = candidate(tiny_bundle, precision="int8", asked=True)
    with pytest.raises(CandidateError, match="no int8 model, it has fp32") as error:
        measure(Comparison("model", 1, 1, (asked,)), duration_s=0.01)
    assert error.value.exit_code == 4


def test_a_process_that_dies_is_named(tiny_bundle: Path) -> None:
    with Process(candidate(tiny_bundle)) as process:
        process.open()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(CandidateError, match="its process ended .exit code -9."):
            process.turn(1)


def test_ctrl_c_leaves_no_process(tiny_bundle: Path) -> None:
    pids: list[int] = []

    def stop(process: Process) -> None:
        pids.append(process.pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(Comparison("model", 1, 1, (candidate(tiny_bundle),)), duration_s=0.01, afterwards=stop)
    end = time.monotonic() + 5
    while alive(pids[0]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pids[0])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="POSIX signals")
def test_ctrl_c_does_not_end_a_process_that_is_still_starting(tiny_bundle: Path) -> None:
    # It reaches the whole group; the leader decides, and no import's traceback is printed.
    with Process(candidate(tiny_bundle)) as process:
        os.kill(process.pid, signal.SIGINT)
        assert process.open().file == "model.onnx"
