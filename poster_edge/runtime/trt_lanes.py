"""One execution context and one CUDA graph per batch size; those used last are kept.

NVIDIA's guide (TensorRT developer guide, "CUDA Graphs") asks for a context per graph: a graph holds the state of
the context it was captured from, and another shape in that context breaks it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from poster_edge.runtime.device_memory import CudaError, Device
from poster_edge.runtime.trt_engine import TrtEngine

if TYPE_CHECKING:
    import tensorrt as trt


class Lane:
    """A batch size."""

    def __init__(self, context: trt.IExecutionContext) -> None:
        self.context = context
        self.graph: Any = None
        self.runs = 0
        self.capturable = True


class Lanes:
    """Runs batches of any size the engine takes.

    The first run of a size is launched kernel by kernel, which also does what TensorRT puts off until then; the
    second is captured, and from then on one call launches the whole graph.  A size that cannot be captured goes
    on kernel by kernel, and the user is told once.

    Args:
        engine: opened.
        device: where it runs.
        stream: in which everything runs.
        keep: batch sizes that are kept.
        notify: told when there are no graphs.
    """

    def __init__(
        self, engine: TrtEngine, device: Device, stream: Any, *, keep: int = 4, notify: Callable[[str], None]
    ) -> None:
        self._engine, self._device, self._stream = engine, device, stream
        self._keep = keep
        self._notify = notify
        self._lanes: OrderedDict[int, Lane] = OrderedDict()
        self._told = False
        #: An ``IProfiler`` that every run reports to; a graph's launch would not.
        self.profiler: Any = None

    @property
    def sizes(self) -> dict[int, bool]:
        """Batch size -> whether it has a graph, the least recently used first."""
        return {rows: lane.graph is not None for rows, lane in self._lanes.items()}

    def run(self, rows: int, addresses: Mapping[str, int]) -> None:
        """Give one inference to the stream.

        Args:
            rows: batch size.
            addresses: tensor name -> device address; the same ones until :meth:`clear`.

        Raises:
            CudaError: TensorRT or the driver failed.
        """
        lane = self._lanes.get(rows) or self._open(rows, addresses)
        self._lanes.move_to_end(rows)
        lane.runs += 1
        if self.profiler is not None:
            lane.context.profiler = self.profiler
            self._enqueue(lane)
            return
        if lane.graph is None and lane.runs > 1 and lane.capturable:
            self._capture(lane, rows)
        if lane.graph is not None:
            self._device.launch(lane.graph, self._stream)
        else:
            self._enqueue(lane)

    def clear(self) -> None:
        """Drop every context and graph, after the stream has come to its end."""
        self._device.synchronise(self._stream)
        while self._lanes:
            self._close(self._lanes.popitem()[1])

    def _open(self, rows: int, addresses: Mapping[str, int]) -> Lane:
        while len(self._lanes) >= self._keep:
            # Its last run may still be under way.
            self._device.synchronise(self._stream)
            self._close(self._lanes.popitem(last=False)[1])
        context = self._engine.create_context(rows)
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise CudaError(f"TensorRT refuses the memory of '{name}'")
        return self._lanes.setdefault(rows, Lane(context))

    def _enqueue(self, lane: Lane) -> None:
        if not lane.context.execute_async_v3(self._device.stream_handle(self._stream)):
            raise CudaError(f"TensorRT could not run the engine: {self._engine.reason()}")

    def _capture(self, lane: Lane, rows: int) -> None:
        ask = getattr(lane.context, "is_stream_capturable", None)
        lane.capturable = ask is None or bool(ask(self._device.stream_handle(self._stream)))
        if not lane.capturable:
            self._tell(rows, "TensorRT says that it cannot be captured")
            return
        # What is under way must not be disturbed: some drivers refuse a capture beside other work of TensorRT.
        self._device.synchronise(self._stream)
        failure: CudaError | None = None
        self._device.begin_capture(self._stream)
        try:
            self._enqueue(lane)
        except CudaError as error:
            failure = error
        try:
            lane.graph = self._device.end_capture(self._stream)
        except CudaError as error:
            failure = failure or error
        if failure is not None:
            if lane.graph is not None:
                self._device.destroy_graph(lane.graph)
            lane.graph, lane.capturable = None, False
            self._tell(rows, str(failure))

    def _tell(self, rows: int, reason: str) -> None:
        if not self._told:
            self._notify(f"no CUDA graph for batches of {rows} ({reason}): kernels are launched one by one")
        self._told = True

    def _close(self, lane: Lane) -> None:
        if lane.graph is not None:
            self._device.destroy_graph(lane.graph)
        del lane.context, lane.graph
