"""The TensorRT runner's own work on a real GPU, where TensorRT is not: memory, graphs, order, overlap, times.

TensorRT is replaced by a stand-in whose engine gives the GPU real work in the runner's stream: it fills scratch
memory a few times, so that there is something to wait for, and copies the first seven values of each row.  All the
rest is what runs with TensorRT: page-locked memory, copies, events, CUDA graphs, two batches under way.  The tests
run the same on a double of the driver.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from poster_edge.export.tensorrt_api import Log
from poster_edge.pipeline.frame import Frame, FrameResult
from poster_edge.pipeline.report import Tally
from poster_edge.pipeline.runner import run
from poster_edge.pipeline.stages import Pipeline
from poster_edge.runtime import trt_plans, trt_runner
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.runtime.device_memory import open_device
from poster_edge.runtime.trt_runner import TensorRtRunner
from poster_edge.vision.faces import Face, Image, WholePicture

Row = dict[str, Any]
CLASSES = 7
BATCHES = (1, 8)


class StandIn:
    """Stands for TensorRT; its engine copies, after ``fills`` fills of ``scratch`` bytes."""

    def __init__(self, *, side: int, fills: int = 16, scratch: int = 256 << 20) -> None:
        from cuda.bindings import driver

        self.cuda: Any = driver
        self.flavour, self.version, self.title, self.is_rtx = "tensorrt", "0.0", "stand-in for TensorRT", False
        self.compute_capabilities: tuple[str, ...] = ()
        self.log = Log()
        self.shapes = {"image": (-1, 3, side, side), "logits": (-1, CLASSES)}
        self.fills, self.scratch = fills, scratch
        self.module = SimpleNamespace(
            TensorIOMode=SimpleNamespace(INPUT="INPUT"),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED"),
        )

    def runtime(self) -> SimpleNamespace:
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: _Engine(self))


class _Engine:
    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self.num_io_tensors = len(stand_in.shapes)
        self.device_memory_size_v2 = stand_in.scratch

    def get_tensor_name(self, index: int) -> str:
        return list(self._stand_in.shapes)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name == "image" else "OUTPUT"

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._stand_in.shapes[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(rows, *self._stand_in.shapes[name][1:]) for rows in (BATCHES[0], *BATCHES)]

    def create_execution_context(self, strategy: object) -> _Context:
        return _Context(self._stand_in)


class _Context:
    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._rows = self._scratch = 0
        self._addresses: dict[str, int] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._rows = shape[0]
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cuda, stand_in = self._stand_in.cuda, self._stand_in
        for number in range(stand_in.fills):
            if int(cuda.cuMemsetD8Async(self._scratch, number, stand_in.scratch, stream)[0]):
                return False
        for row in range(self._rows):
            source = self._addresses["image"] + 4 * row * int(np.prod(stand_in.shapes["image"][1:]))
            target = self._addresses["logits"] + 4 * row * CLASSES
            if int(cuda.cuMemcpyDtoDAsync(target, source, 4 * CLASSES, stream)[0]):
                return False
        return True


def stand_in_rows(*, fills: int = 16, scratch: int = 256 << 20) -> Iterator[Row]:
    """A row a check; ``error`` is the largest difference of a value, and nothing is computed in between."""
    bundle = load_bundle("poster-nano")
    with ExitStack() as stack:
        stand_in = stack.enter_context(_replaced(bundle.manifest.preprocess.size, fills, scratch))
        with TensorRtRunner(bundle, flavour="tensorrt", opener=open_device) as runner:
            for name, check in CHECKS.items():
                error = check(runner, stand_in)
                yield {"what": f"runner on a stand-in engine: {name}", "error": error, "ok": error == 0.0}
        yield _overlap()


@contextmanager
def _replaced(side: int, fills: int, scratch: int) -> Iterator[StandIn]:
    """TensorRT replaced, and an empty cache."""
    stand_in = StandIn(side=side, fills=fills, scratch=scratch)
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.object(trt_runner, "load", return_value=stand_in),
        mock.patch.object(trt_plans, "build_plan", return_value=b"stand-in"),
        mock.patch.dict(os.environ, {"POSTER_EDGE_CACHE": cache}),
    ):
        yield stand_in


def _images(rows: int, stand_in: StandIn, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, *stand_in.shapes["image"][1:])).astype(np.float32)


def _difference(found: np.ndarray, images: np.ndarray) -> float:
    # (rows, 3, S, S) -> (rows, 3 S S)
    expected = images.reshape(len(images), -1)[:, :CLASSES]
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("nan")


def _batches(runner: TensorRtRunner, stand_in: StandIn) -> float:
    """Batches of many sizes, split ones among them."""
    worst = 0.0
    for seed, rows in enumerate((1, 1, 1, 3, 8, 3, 5, 8, 8, 20, 20, 2, 1, 33)):
        images = _images(rows, stand_in, seed)
        worst = max(worst, _difference(runner.infer({"image": images})["logits"], images))
    return worst


def _graphs(runner: TensorRtRunner, stand_in: StandIn) -> float:
    """CUDA graphs were captured, and a launched graph sees new values."""
    worst = _batches(runner, stand_in)
    return worst if runner.graphs and all(runner.graphs[n] for n in (8, 1) if n in runner.graphs) else float("nan")


def _two_under_way(runner: TensorRtRunner, stand_in: StandIn) -> float:
    """Two batches under way, the feed overwritten at once, results asked for in the other order."""
    worst = 0.0
    for seed in range(20):
        first, second = _images(2, stand_in, 100 + seed), _images(4, stand_in, 200 + seed)
        given = first.copy()
        pending = [runner.submit({"image": given}), runner.submit({"image": second})]
        given[:] = 0
        worst = max(worst, _difference(pending[1].result()["logits"], second))
        worst = max(worst, _difference(pending[0].result()["logits"], first))
    return worst


def _times(runner: TensorRtRunner, stand_in: StandIn) -> float:
    """An inference's own time by the GPU's clock is positive and no longer than the whole call."""
    images = _images(8, stand_in, 1)
    for _ in range(5):
        began = time.perf_counter()
        pending = runner.submit({"image": images})
        pending.result()
        whole_ms = 1e3 * (time.perf_counter() - began)
        if not 0 < pending.infer_ms <= whole_ms + 0.5:
            return float("nan")
    return 0.0


CHECKS: dict[str, Callable[[TensorRtRunner, StandIn], float]] = {
    "batches of many sizes": _batches,
    "CUDA graphs": _graphs,
    "two batches under way": _two_under_way,
    "times": _times,
}


class _Busy(WholePicture):
    """A detector that keeps this side busy for as long as the GPU will be."""

    def __init__(self, busy_s: float) -> None:
        self._busy_s = busy_s

    def detect(self, bgr: Image, *, fine: bool = False) -> list[Face]:
        until = time.perf_counter() + self._busy_s
        while time.perf_counter() < until:
            pass
        return super().detect(bgr, fine=fine)


class _Frames:
    """Sixty small pictures, all different."""

    live = False
    inputs: list[str] = []  # noqa: RUF012 - reads no file

    def total(self) -> int:
        return 60

    def __iter__(self) -> Iterator[Frame]:
        for index in range(60):
            image = np.random.default_rng(index).integers(0, 255, (48, 48, 3), np.uint8)
            yield Frame(index, index / 30, "made", image, 0.0, "video", 30.0)


class _Kept:
    """A sink that keeps the results."""

    def __init__(self) -> None:
        self.results: list[FrameResult] = []

    def write(self, result: FrameResult) -> None:
        self.results.append(result)

    def close(self) -> None: ...

    abort = close


def _overlap() -> Row:
    """The whole pipeline, overlapped and not: the same results in order, and how much faster."""
    with Classifier(load_bundle("poster-nano"), runtime="tensorrt", device="cuda:0") as classifier:
        first = [classifier([np.full((48, 48, 3), 99, np.uint8)]) is not None for _ in range(3)]
        gpu_s = statistics.median(_infer_s(classifier) for _ in range(9))
        seconds, kept = {}, {}
        for overlaps in (False, True, False, True):
            pipeline, sink = Pipeline(_Busy(gpu_s), classifier), _Kept()
            if not overlaps:
                pipeline.overlaps, pipeline._async = False, None
            began = time.perf_counter()
            run(_Frames(), pipeline, [sink], tally=Tally())
            seconds[overlaps], kept[overlaps] = time.perf_counter() - began, sink.results
    same = [r.frame.index for r in kept[True]] == list(range(60))
    error = max(
        float(np.abs(a.faces[0].now.probabilities - b.faces[0].now.probabilities).max())
        for a, b in zip(kept[True], kept[False], strict=True)
    )
    note = f"{seconds[False] / seconds[True]:.2f} times as many frames a second, {1e3 * gpu_s:.2f} ms on either side"
    ok = all(first) and same and error == 0.0
    return {"what": "runner on a stand-in engine: pipeline, overlapped", "error": error, "ok": ok, "note": note}


def _infer_s(classifier: Classifier) -> float:
    began = time.perf_counter()
    classifier([np.full((48, 48, 3), 99, np.uint8)])
    return time.perf_counter() - began
