"""GPU memory, streams and graphs through NVIDIA's ``cuda-python`` (``cuda.bindings.driver``).

The driver's own interface, on the device's primary context: the one that TensorRT uses too.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import UnavailableError
from poster_edge.export.gpu import Gpu
from poster_edge.optional import require
from poster_edge.runtime.device_memory import CudaError


class CudaPythonDevice:
    """See :class:`poster_edge.runtime.device_memory.Device`; streams, events and graphs are integers.

    Args:
        gpu: which one.

    Raises:
        UnavailableError: the package or the driver does not work.
    """

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._cuda: Any = require("cuda.bindings.driver", purpose="use GPU memory")
        self.package = f"cuda-python {require('cuda.bindings', purpose='use GPU memory').__version__}"
        try:
            self._call("start", self._cuda.cuInit, 0)
            self._device = self._call("find the GPU", self._cuda.cuDeviceGet, gpu.index)
            self._context = self._call("open the GPU", self._cuda.cuDevicePrimaryCtxRetain, self._device)
            self.activate()
        except CudaError as error:
            raise UnavailableError(f"{self.package} cannot use cuda:{gpu.index}: {error}") from error

    def activate(self) -> None:
        """Make this device the calling thread's own; any thread may."""
        self._call("activate the GPU", self._cuda.cuCtxSetCurrent, self._context)

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of device memory."""
        return int(self._call(f"allocate {_mib(size)} on the GPU", self._cuda.cuMemAlloc, max(size, 1)))

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("free GPU memory", self._cuda.cuMemFree, address)

    def allocate_host(self, size: int) -> NDArray[np.uint8]:
        """Page-locked (size,) bytes."""
        what = f"allocate {_mib(size)} of page-locked memory"
        address = int(self._call(what, self._cuda.cuMemHostAlloc, max(size, 1), 0))
        # The array's base points into memory that ctypes does not own: free_host gives it back.
        return np.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(address))[:size]

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Give page-locked memory back."""
        self._call("free page-locked memory", self._cuda.cuMemFreeHost, array.ctypes.data)

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        flag = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING.value
        return int(self._call("create a stream", self._cuda.cuStreamCreate, flag))

    def stream_handle(self, stream: int) -> int:
        """The stream itself."""
        return stream

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("destroy a stream", self._cuda.cuStreamDestroy, stream)

    def synchronise(self, stream: int) -> None:
        """Wait for a stream."""
        self._call("wait for the GPU", self._cuda.cuStreamSynchronize, stream)

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy from page-locked memory, asynchronously."""
        copy = self._cuda.cuMemcpyHtoDAsync
        self._call("copy to the GPU", copy, address, array.ctypes.data, array.nbytes, stream)

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy into page-locked memory, asynchronously."""
        copy = self._cuda.cuMemcpyDtoHAsync
        self._call("copy from the GPU", copy, array.ctypes.data, address, array.nbytes, stream)

    def record(self, stream: int) -> int:
        """An event after what the stream was given so far."""
        flag = self._cuda.CUevent_flags.CU_EVENT_DEFAULT.value
        event = int(self._call("create an event", self._cuda.cuEventCreate, flag))
        self._call("record an event", self._cuda.cuEventRecord, event, stream)
        return event

    def wait(self, event: int, since: int | None = None) -> float:
        """Wait for an event and give it back; ms since an earlier one, which is given back too."""
        try:
            self._call("wait for the GPU", self._cuda.cuEventSynchronize, event)
            if since is None:
                return 0.0
            return float(self._call("time the GPU", self._cuda.cuEventElapsedTime, since, event))
        finally:
            for used in (event, since):
                if used is not None:
                    self._cuda.cuEventDestroy(used)

    def begin_capture(self, stream: int) -> None:
        """Note the stream's work from here on."""
        # Thread-local: what other threads do with the GPU meanwhile is theirs to decide.
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("begin a CUDA graph", self._cuda.cuStreamBeginCapture, stream, mode)

    def end_capture(self, stream: int) -> int:
        """The graph of the noted work."""
        graph = self._call("capture a CUDA graph", self._cuda.cuStreamEndCapture, stream)
        try:
            return int(self._call("instantiate a CUDA graph", self._cuda.cuGraphInstantiate, graph, 0))
        finally:
            self._cuda.cuGraphDestroy(graph)

    def launch(self, graph: int, stream: int) -> None:
        """Give a graph's work to a stream."""
        self._call("launch a CUDA graph", self._cuda.cuGraphLaunch, graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
        self._call("destroy a CUDA graph", self._cuda.cuGraphExecDestroy, graph)

    def close(self) -> None:
        """Release the primary context."""
        self._call("release the GPU", self._cuda.cuDevicePrimaryCtxRelease, self._device)

    def _call(self, what: str, function: Any, *arguments: Any) -> Any:
        """First output of a driver function.

        Raises:
            CudaError: it failed, says at what and why.
        """
        try:
            status, *outputs = function(*arguments)
        except (RuntimeError, OSError) as error:
            # A function that the driver is too old for, or no driver: these raise instead of returning a status.
            raise CudaError(f"CUDA could not {what}: {' '.join(str(error).split())}") from error
        if int(status):
            raise CudaError(f"CUDA could not {what}: {self._explain(status)}")
        return outputs[0] if outputs else None

    def _explain(self, status: Any) -> str:
        failed, text = self._cuda.cuGetErrorString(status)
        return f"{status.name}" if int(failed) or not text else f"{text.decode()} ({status.name})"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
