"""TensorRT and TensorRT-RTX runner: a plan of this machine's own, page-locked memory, one stream, CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export.engine_plugin import PluginLibrary
from poster_edge.export.engine_spec import EngineSpec
from poster_edge.export.gpu import Gpu
from poster_edge.export.tensorrt_api import TensorRt, load
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.device_memory import CudaError, Device, choose_package, open_device, require_gpu
from poster_edge.runtime.runner import check_fit
from poster_edge.runtime.trt_lanes import Lanes
from poster_edge.runtime.trt_plans import PlanSource
from poster_edge.runtime.trt_slots import DeviceTensors, HostSlot

Notify = Callable[[str], None]


class Pending:
    """An inference under way; its rows come back in the order in which they were given.

    Attributes:
        infer_ms: time that it took by itself, once :meth:`result` has returned: the copies into page-locked
            memory on this side, and copies and kernels by the GPU's clock; what it waited for is left out.
        copy_ms: the copies' part of it, where the runner was asked to time them.
    """

    def __init__(self, runner: TensorRtRunner, outputs: Mapping[str, NDArray[Any]]) -> None:
        self.infer_ms = self.copy_ms = 0.0
        self._runner = runner
        self._outputs = dict(outputs)
        self._missing = 0
        self._failure: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether every row has been fetched; :meth:`result` then returns at once."""
        return self._missing == 0

    def result(self) -> dict[str, NDArray[Any]]:
        """Wait for the outputs: name -> array of its own.

        Raises:
            CudaError: the GPU failed.
            RuntimeError: the runner was left before the outputs were fetched.
        """
        if not self.done and self._failure is None:
            self._runner.fetch(self)
        if self._failure is not None:
            raise self._failure
        return self._outputs


class _Flight:
    """One batch between being given to the stream and being fetched."""

    def __init__(
        self,
        pending: Pending,
        start: int,
        rows: int,
        events: tuple[Any, Any],
        arrays: Mapping[str, NDArray[Any]],
        copies: Sequence[tuple[Any, Any]],
    ) -> None:
        self.pending, self.start, self.rows, self.events, self.arrays = pending, start, rows, events, arrays
        self.copies = copies


class TensorRtRunner:
    """Runs a bundle's ONNX model through TensorRT.

    The plan comes from this user's cache and is built when it is not there, which takes from seconds to
    minutes.  A batch above the engine's largest is split; one below its smallest is filled up with copies of its
    last row, whose results are dropped.  To be entered, used and left in one thread.

    Args:
        bundle: an opened bundle.
        flavour: "tensorrt" or "tensorrt-rtx".
        precision: which of the bundle's models; an INT8 one is taken in the form made for TensorRT.
        device: "auto" or "cuda:N".
        spec: how the plan is built; None: batches of 1 to 8, tuned for 1.
        plugin: computes POSTER's cross-fusion, in its own precision; it takes the bundle's graph for it.
        trust_engine: take a plan that lies in the bundle even if it was not built here.
        notify: told in one line what takes long and what cannot be had.
        progress: told how far a build is, 0 to 1, and its phase; from the builder's thread.
        opener: opens a device; another one serves tests.

    Raises:
        UnavailableError: TensorRT, a GPU, its driver or a CUDA package is missing; says which and what to do.
        BundleError: the bundle has no such model, or no graph for the plugin.
        UsageError: the device has no such form.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        flavour: str,
        precision: str = "fp32",
        device: str = "auto",
        spec: EngineSpec | None = None,
        plugin: PluginLibrary | None = None,
        trust_engine: bool = False,
        notify: Notify | None = None,
        progress: Callable[[float, str], None] | None = None,
        opener: Callable[[int], Device] | None = None,
    ) -> None:
        self.bundle = bundle
        self.file = bundle.plugin_file(plugin.precision) if plugin else bundle.model_file(precision, placement="inputs")
        self.precision = plugin.precision if plugin else precision
        self._plugin = plugin
        self._index = _index(device, flavour)
        self._notify: Notify = notify or (lambda _: None)
        self._opener = opener or open_device
        if opener is None:
            # Cheap checks first, and the one that no installation can cure before all.
            require_gpu(self._index)
            choose_package()
        self._tensorrt: TensorRt = load(flavour)
        self._plans = PlanSource(
            bundle,
            self._tensorrt,
            replace(spec or EngineSpec(flavour), plugin=plugin),
            file=self.file,
            precision=self.precision,
            trust_engine=trust_engine,
            notify=self._notify,
            progress=progress,
        )
        self.description = self._tensorrt.title
        #: Whether each inference also notes the time of its copies, which takes four more events.
        self.times_copies = False
        #: Those of the last :meth:`infer`, in ms.
        self.copy_ms = 0.0
        self._stack: ExitStack | None = None

    def __enter__(self) -> TensorRtRunner:
        with ExitStack() as stack:
            self._device = self._opener(self._index)
            stack.callback(self._device.close)
            check_capability(self._tensorrt, self._device.gpu)
            if self._plugin is not None:
                # A plan names the plugin that it was built with.
                self._tensorrt.load_plugin(self._plugin)
            self._engine = self._plans.open(self._device)
            stack.callback(self._engine.close)
            self._check_fit()
            self._stream = self._device.create_stream()
            stack.callback(self._device.destroy_stream, self._stream)
            tensors = [*self._engine.inputs.values(), *self._engine.outputs.values()]
            self._tensors = DeviceTensors(self._device, tensors, limit=self._engine.batches[1])
            stack.callback(self._tensors.close)
            self._slots = (HostSlot(self._device), HostSlot(self._device))
            for slot in self._slots:
                stack.callback(slot.close)
            self._lanes = Lanes(self._engine, self._device, self._stream, notify=self._notify)
            stack.callback(self._lanes.clear)
            self._flights: list[_Flight | None] = [None, None]
            self._turn = 0
            stack.callback(self._lose)
            self._stack = stack.pop_all()
        gpu = self._device.gpu
        title = f"{self._tensorrt.title}{' with the plugin' if self._plugin else ''}"
        self.description = f"{title} ({gpu.name}, {self.precision}, {self._device.package})"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        try:
            if stack is not None:
                stack.close()
        except CudaError:
            # After a failure of the GPU nothing can be given back either: the first failure is the one to show.
            if error is None:
                raise

    def profile_to(self, profiler: Any) -> None:
        """Have TensorRT tell the time of every layer of every run from here on; without CUDA graphs.

        Args:
            profiler: an ``IProfiler`` of :attr:`module`.
        """
        self._lanes.profiler = profiler

    @property
    def module(self) -> Any:
        """TensorRT's package."""
        return self._tensorrt.module

    @property
    def graphs(self) -> dict[int, bool]:
        """Batch sizes run last -> whether a CUDA graph runs them."""
        return self._lanes.sizes

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Execute the model once; see :class:`poster_edge.runtime.runner.Runner`."""
        pending = self.submit(feed)
        outputs = pending.result()
        self.copy_ms = pending.copy_ms
        return outputs

    def submit(self, feed: Mapping[str, NDArray[Any]]) -> Pending:
        """Give a batch to the GPU and return while it computes.

        Two batches may be under way: giving a third waits for the first.  The feed may be changed as soon as
        this returns.

        Args:
            feed: input name -> (N, \\*shape), any N.

        Raises:
            ValueError: the names or shapes are not the engine's.
            CudaError: the GPU failed.
        """
        if self._stack is None:
            raise RuntimeError("submit() before the runner was entered")
        rows = self._rows(feed)
        self._device.activate()
        outputs = {n: np.empty((rows, *t.shape), t.dtype) for n, t in self._engine.outputs.items()}
        pending = Pending(self, outputs)
        largest = self._engine.batches[1]
        starts = range(0, rows, largest)
        pending._missing = len(starts)
        for start in starts:
            part = {n: a[start : start + largest] for n, a in feed.items()}
            self._launch(pending, start, part, min(largest, rows - start))
        return pending

    def fetch(self, pending: Pending) -> None:
        """Fetch what is still under way of one inference, and of those given before it."""
        self._device.activate()
        # The slot whose turn it is holds the older batch.
        for slot in (self._turn, 1 - self._turn):
            if not pending.done:
                self._land(slot)

    def _launch(self, pending: Pending, start: int, part: Mapping[str, NDArray[Any]], rows: int) -> None:
        """Give one batch that fits the engine to the stream."""
        turn, smallest = self._turn, self._engine.batches[0]
        self._land(turn)
        batch = max(rows, smallest)
        if batch > self._tensors.rows:
            # Contexts and graphs hold the old addresses.
            self._lanes.clear()
            self._tensors.grow(batch)
        slot, limit, addresses = self._slots[turn], self._engine.batches[1], self._tensors.addresses
        began = time.perf_counter()
        arrays = {n: slot.array(t, batch, limit=limit) for n, t in self._engine.inputs.items()}
        for name, array in arrays.items():
            array[:rows] = part[name]
            array[rows:] = array[rows - 1]
        filled_ms = 1e3 * (time.perf_counter() - began)
        pending.infer_ms += filled_ms
        first = self._device.record(self._stream)
        marks = self._mark()
        for name, array in arrays.items():
            self._device.copy_to_device(addresses[name], array, self._stream)
        marks += self._mark()
        self._lanes.run(batch, addresses)
        marks += self._mark()
        arrays = {n: slot.array(t, batch, limit=limit) for n, t in self._engine.outputs.items()}
        for name, array in arrays.items():
            self._device.copy_to_host(array, addresses[name], self._stream)
        marks += self._mark()
        copies = [(marks[1], marks[0]), (marks[3], marks[2])] if marks else []
        if marks:
            pending.copy_ms += filled_ms
        events = self._device.record(self._stream), first
        self._flights[turn] = _Flight(pending, start, rows, events, arrays, copies)
        self._turn = 1 - turn

    def _mark(self) -> list[Any]:
        """An event at this point of the stream, where copies are timed."""
        return [self._device.record(self._stream)] if self.times_copies else []

    def _land(self, turn: int) -> None:
        """Wait for the batch in a slot, if there is one, and copy its results out of the slot."""
        flight, self._flights[turn] = self._flights[turn], None
        if flight is None:
            return
        try:
            flight.pending.infer_ms += self._device.wait(*flight.events)
            for pair in flight.copies:
                flight.pending.copy_ms += self._device.wait(*pair)
        except BaseException as error:
            # Of Ctrl-C too: whoever asks for this result later must not get half an array.
            flight.pending._failure = error
            raise
        for name, array in flight.arrays.items():
            flight.pending._outputs[name][flight.start : flight.start + flight.rows] = array[: flight.rows]
        flight.pending._missing -= 1

    def _lose(self) -> None:
        """What is under way when the runner is left is waited for and dropped."""
        for turn, flight in enumerate(self._flights):
            if flight is not None:
                self._flights[turn] = None
                flight.pending._failure = RuntimeError("the runner was left before this result was asked for")
                for pair in (flight.events, *flight.copies):
                    self._device.wait(*pair)

    def _rows(self, feed: Mapping[str, NDArray[Any]]) -> int:
        """Batch size of a feed that fits the engine."""
        expected = {n: t.shape for n, t in self._engine.inputs.items()}
        given = {n: np.shape(a) for n, a in feed.items()}
        if {n: s[1:] for n, s in given.items()} != expected or len({s[:1] for s in given.values()}) != 1:
            wanted = ", ".join(f"'{n}' (N, {', '.join(map(str, s))})" for n, s in expected.items())
            raise ValueError(f"the feed has {given}, the engine takes {wanted}")
        return int(next(iter(given.values()))[0])

    def _check_fit(self) -> None:
        inputs, outputs = (
            {n: (-1, *t.shape) for n, t in tensors.items()} for tensors in (self._engine.inputs, self._engine.outputs)
        )
        check_fit(self.file, self.bundle.manifest, inputs, outputs)


def check_capability(tensorrt: TensorRt, gpu: Gpu) -> None:
    """Refuse a GPU that TensorRT-RTX has no code for (it has none for Jetson Orin and for data centres' Hopper).

    Raises:
        UnavailableError: names the GPU and what there is for it.
    """
    known = tensorrt.compute_capabilities
    if known and gpu.compute_capability not in known:
        raise UnavailableError(
            f"{tensorrt.title} has no code for {gpu.name} (compute capability {gpu.compute_capability}; it knows "
            f"{', '.join(known)}); use --runtime tensorrt or onnxruntime"
        )


def _index(device: str, flavour: str) -> int:
    """Number of the GPU that ``--device`` names."""
    if device in ("auto", "cuda"):
        return 0
    kind, _, index = device.partition(":")
    if kind == "cuda" and index.isdigit():
        return int(index)
    if device == "cpu":
        raise UnavailableError(
            f"--device cpu: {flavour} runs on NVIDIA GPUs only; use --runtime onnxruntime or openvino"
        )
    raise UsageError(f"--device {device}: expected auto or cuda:N with --runtime {flavour}")
