"""A test double of CUDA, and of the part of TensorRT that needs it: memory is numpy's, graphs are lists of closures.

Work given to a stream is done only when somebody waits for it, so that memory that was changed or given back too
early shows in the results.  What an engine computes is computed by onnxruntime from the model's own ONNX graph.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from poster_edge.export.gpu import Gpu
from poster_edge.export.tensorrt_api import Log
from poster_edge.runtime.device_memory import CudaError

Work = Callable[[], None]


class Stream:
    """Work that waits to be done."""

    def __init__(self) -> None:
        self.queue: list[Work] = []
        self.noted: list[Work] | None = None
        self.broken = False
        #: The double's clock: each piece of work takes a millisecond.
        self.clock_ms = 0

    def give(self, work: Work) -> None:
        (self.queue if self.noted is None else self.noted).append(work)

    def run(self, until: Work | None = None) -> None:
        while self.queue:
            work = self.queue.pop(0)
            self.clock_ms += 1
            work()
            if work is until:
                return


class Mark:
    """An event: it notes when the stream came to it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.at_ms: int | None = None

    def __call__(self) -> None:
        self.at_ms = self.stream.clock_ms


class NumpyDevice:
    """A device whose memory is numpy's; ``live`` counts what was not given back, ``fail`` makes a call fail."""

    def __init__(self, index: int = 0) -> None:
        self.gpu = Gpu(index, "double of a GPU", "8.6", "13.0", "580.1")
        self.package = "numpy"
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: set[int] = set()
        self.events: list[Work] = []
        self.log: list[str] = []
        self.fail: set[str] = set()
        self.closed = False
        self._next = 256

    @property
    def live(self) -> int:
        return len(self.memory) + len(self.pinned) + len(self.streams) + len(self.graphs) + len(self.events)

    def _note(self, name: str, *details: object) -> None:
        self.log.append(" ".join([name, *map(str, details)]))
        if name in self.fail:
            raise CudaError(f"CUDA could not {name}: the test says so")

    def activate(self) -> None:
        assert not self.closed

    def allocate(self, size: int) -> int:
        self._note("allocate", size)
        address, self._next = self._next, self._next + (size + 511) // 256 * 256
        self.memory[address] = np.full(size, 0xFF, np.uint8)
        return address

    def free(self, address: int) -> None:
        self.memory.pop(address)[:] = 0xFE

    def allocate_host(self, size: int) -> NDArray[np.uint8]:
        self._note("allocate_host", size)
        array = np.full(size, 0xFF, np.uint8)
        self.pinned[array.ctypes.data] = array
        return array

    def free_host(self, array: NDArray[np.uint8]) -> None:
        self.pinned.pop(array.ctypes.data)[:] = 0xFE

    def create_stream(self) -> Stream:
        stream = Stream()
        self.streams[id(stream)] = stream
        return stream

    def stream_handle(self, stream: Stream) -> int:
        return id(stream)

    def destroy_stream(self, stream: Stream) -> None:
        assert not stream.queue
        del self.streams[id(stream)]

    def synchronise(self, stream: Stream) -> None:
        self._note("synchronise")
        assert stream.noted is None, "waited for a stream that is being captured"
        stream.run()

    def copy_to_device(self, address: int, array: NDArray[Any], stream: Stream) -> None:
        target, source = self.memory[address], self._checked(array)

        def copy() -> None:
            target[: source.nbytes] = source

        self._note("copy_to_device", array.shape[0])
        stream.give(copy)

    def copy_to_host(self, array: NDArray[Any], address: int, stream: Stream) -> None:
        target, source = self._checked(array), self.memory[address]

        def copy() -> None:
            target[:] = source[: target.nbytes]

        self._note("copy_to_host", array.shape[0])
        stream.give(copy)

    def _checked(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """The bytes of an array that lies in page-locked memory."""
        assert array.flags.c_contiguous
        (block,) = [b for a, b in self.pinned.items() if a <= array.ctypes.data < a + max(b.nbytes, 1)]
        assert array.ctypes.data + array.nbytes <= block.ctypes.data + block.nbytes
        return array.reshape(-1).view(np.uint8)

    def record(self, stream: Stream) -> Mark:
        mark = Mark(stream)
        stream.give(mark)
        self.events.append(mark)
        return mark

    def wait(self, event: Mark, since: Mark | None = None) -> float:
        for used in (event, since):
            if used is not None:
                self.events.remove(used)
        self._note("wait")
        if event.at_ms is None:
            event.stream.run(until=event)
        assert event.at_ms is not None
        if since is None:
            return 0.0
        assert since.at_ms is not None
        return float(event.at_ms - since.at_ms)

    def begin_capture(self, stream: Stream) -> None:
        self._note("begin_capture")
        stream.noted = []

    def end_capture(self, stream: Stream) -> list[Work]:
        graph, stream.noted = stream.noted, None
        self._note("end_capture")
        assert graph is not None
        if stream.broken:
            stream.broken = False
            raise CudaError("CUDA could not capture: something cannot be captured")
        self.graphs.add(id(graph))
        return graph

    def launch(self, graph: list[Work], stream: Stream) -> None:
        assert id(graph) in self.graphs, "launched a graph that was given back"
        self._note("launch")
        stream.queue.extend(graph)

    def destroy_graph(self, graph: list[Work]) -> None:
        under_way = [work for stream in self.streams.values() for work in stream.queue]
        assert not any(work in under_way for work in graph), "gave back a graph that is under way"
        self.graphs.remove(id(graph))

    def close(self) -> None:
        self.closed = True


class ContextDouble:
    """An execution context: the first run of a shape cannot be captured, as with TensorRT's deferred updates."""

    def __init__(self, engine: EngineDouble) -> None:
        self.engine = engine
        self.rows = 0
        self.addresses: dict[str, int] = {}
        self.ran = False
        self.scratch = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size <= self.engine.device.memory[memory].nbytes
        self.scratch = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.rows = shape[0]
        low, high = self.engine.batches
        return low <= shape[0] <= high and shape[1:] == self.engine.shapes[name][1:]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory in self.engine.device.memory

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.capturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        device = self.engine.device
        stream = device.streams[stream_handle]
        assert self.scratch in device.memory
        if stream.noted is not None and (not self.ran or "capture" in device.fail):
            stream.broken = True
            return False
        device.log.append(f"execute {self.rows}" + ("" if stream.noted is None else " into a graph"))
        if "execute" in device.fail:
            return False
        self.ran = True
        stream.give(self._compute)
        return True

    def _compute(self) -> None:
        memory = self.engine.device.memory
        feed = {n: self._view(memory[self.addresses[n]], n) for n in self.engine.inputs}
        for name, out in zip(self.engine.outputs, self.engine.session.run(self.engine.outputs, feed), strict=True):
            self._view(memory[self.addresses[name]], name)[:] = out

    def _view(self, memory: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
        shape = (self.rows, *self.engine.shapes[name][1:])
        # (bytes,) -> (rows, *shape)
        return memory[: 4 * int(np.prod(shape))].view(np.float32).reshape(shape)


class EngineDouble:
    """An engine that computes its ONNX graph with onnxruntime on the double's memory."""

    def __init__(self, device: NumpyDevice, batches: tuple[int, int], onnx: bytes, *, capturable: bool) -> None:
        self.device, self.batches, self.capturable = device, batches, capturable
        self.session = ort.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self.inputs = [i.name for i in self.session.get_inputs()]
        self.outputs = [o.name for o in self.session.get_outputs()]
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.shapes = {t.name: (-1, *t.shape[1:]) for t in tensors}
        self.device_memory_size_v2 = 1024
        self.contexts = 0

    @property
    def num_io_tensors(self) -> int:
        return len(self.shapes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name in self.inputs else "OUTPUT"

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        low, high = self.batches
        return [(rows, *self.shapes[name][1:]) for rows in (low, low, high)]

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace(
            set_execution_context_allocation_strategy=lambda strategy: None,
            dynamic_shapes_kernel_specialization_strategy="LAZY",
        )

    def create_execution_context(self, config: object = None) -> ContextDouble:
        if self.device.gpu and isinstance(config, SimpleNamespace):
            assert config.dynamic_shapes_kernel_specialization_strategy == "EAGER"
        self.contexts += 1
        return ContextDouble(self)


class TensorRtDouble:
    """Stands for :class:`poster_edge.export.tensorrt_api.TensorRt`; ``opened`` is every plan it was given to open."""

    def __init__(self, flavour: str = "tensorrt-rtx", *, batches: tuple[int, int] = (1, 8)) -> None:
        self.flavour, self.version = flavour, "0.0-double"
        self.title = f"{flavour} double"
        self.is_rtx = flavour == "tensorrt-rtx"
        self.compute_capabilities = ("8.6",)
        self.log = Log()
        self.module = SimpleNamespace(
            TensorIOMode=SimpleNamespace(INPUT="INPUT"),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED"),
            DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="EAGER"),
        )
        self.batches = batches
        self.capturable = True
        self.device = NumpyDevice()
        self.opened: list[bytes] = []
        self.builds = 0
        self.engine: EngineDouble | None = None
        self.refuse = 0

    def open(self, index: int = 0) -> NumpyDevice:
        """The device, open again."""
        self.device.closed = False
        return self.device

    def build(self, onnx: bytes) -> bytes:
        """A plan: a header and the graph itself."""
        self.builds += 1
        return b"double" + struct.pack("<II", *self.batches) + onnx

    def runtime(self) -> SimpleNamespace:
        return SimpleNamespace(deserialize_cuda_engine=self._deserialise)

    def _deserialise(self, plan: bytes) -> EngineDouble | None:
        self.opened.append(plan)
        if not plan.startswith(b"double") or self.refuse:
            self.refuse -= 1
            self.log.errors.append("the magic tag does not match")
            return None
        low, high = struct.unpack_from("<II", plan, 6)
        self.engine = EngineDouble(self.device, (low, high), plan[14:], capturable=self.capturable)
        return self.engine
