"""GPU memory, streams and graphs through ``pycuda``, which Jetson images carry.

pycuda has no CUDA graphs: those few calls go to the driver directly, on pycuda's own streams.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import UnavailableError
from poster_edge.export.gpu import Gpu
from poster_edge.optional import require
from poster_edge.runtime.device_memory import CudaError

#: CU_STREAM_NON_BLOCKING and CU_STREAM_CAPTURE_MODE_THREAD_LOCAL of the driver API.
_NON_BLOCKING, _THREAD_LOCAL = 1, 1


class PyCudaDevice:
    """See :class:`poster_edge.runtime.device_memory.Device`; to be used in the thread that opened it.

    Args:
        gpu: which one.

    Raises:
        UnavailableError: the package or the driver does not work.
    """

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._cuda: Any = require("pycuda.driver", purpose="use GPU memory")
        version = require("pycuda", purpose="use GPU memory").VERSION_TEXT
        self.package = f"pycuda {version}"
        # pycuda frees what nobody refers to any more; here it is freed when it is given back.
        self._allocations: dict[int, Any] = {}
        self._pinned: dict[int, Any] = {}
        self._thread = threading.get_ident()
        try:
            self._driver = _Graphs()
            with self._clear("start"):
                self._cuda.init()
                self._context = self._cuda.Device(gpu.index).retain_primary_context()
                self._context.push()
        except (CudaError, AttributeError, OSError) as error:
            raise UnavailableError(f"{self.package} cannot use cuda:{gpu.index}: {error}") from error
        # pycuda aborts a process that ends with a context on its stack.
        atexit.register(self.close)

    def activate(self) -> None:
        """Check that this is the thread that opened the device: pycuda's contexts belong to one."""
        if threading.get_ident() != self._thread:
            raise CudaError(
                "pycuda serves only the thread that opened the GPU; use the runner there, or install cuda-python"
            )

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of device memory."""
        with self._clear(f"allocate {size / (1 << 20):.1f} MiB on the GPU"):
            allocation = self._cuda.mem_alloc(max(size, 1))
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Give memory back."""
        with self._clear("free GPU memory"):
            self._allocations.pop(address).free()

    def allocate_host(self, size: int) -> NDArray[np.uint8]:
        """Page-locked (size,) bytes."""
        with self._clear(f"allocate {size / (1 << 20):.1f} MiB of page-locked memory"):
            array: NDArray[np.uint8] = self._cuda.pagelocked_empty(max(size, 1), np.uint8)
        self._pinned[array.ctypes.data] = array.base
        return array[:size]

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Give page-locked memory back."""
        with self._clear("free page-locked memory"):
            self._pinned.pop(array.ctypes.data).free()

    def create_stream(self) -> Any:
        """A stream that does not wait for the default one."""
        with self._clear("create a stream"):
            return self._cuda.Stream(_NON_BLOCKING)

    def stream_handle(self, stream: Any) -> int:
        """The stream's handle."""
        return int(stream.handle)

    def destroy_stream(self, stream: Any) -> None:
        """Nothing: pycuda destroys a stream with its last reference."""

    def synchronise(self, stream: Any) -> None:
        """Wait for a stream."""
        with self._clear("wait for the GPU"):
            stream.synchronize()

    def copy_to_device(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Copy from page-locked memory, asynchronously."""
        with self._clear("copy to the GPU"):
            self._cuda.memcpy_htod_async(address, array, stream)

    def copy_to_host(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Copy into page-locked memory, asynchronously."""
        with self._clear("copy from the GPU"):
            self._cuda.memcpy_dtoh_async(array, address, stream)

    def record(self, stream: Any) -> Any:
        """An event after what the stream was given so far."""
        with self._clear("record an event"):
            return self._cuda.Event(self._cuda.event_flags.DEFAULT).record(stream)

    def wait(self, event: Any, since: Any = None) -> float:
        """Wait for an event; ms since an earlier one.  pycuda destroys both with their last references."""
        with self._clear("wait for the GPU"):
            event.synchronize()
            return 0.0 if since is None else float(event.time_since(since))

    def begin_capture(self, stream: Any) -> None:
        """Note the stream's work from here on."""
        self._driver.begin(self.stream_handle(stream))

    def end_capture(self, stream: Any) -> int:
        """The graph of the noted work."""
        return self._driver.end(self.stream_handle(stream))

    def launch(self, graph: int, stream: Any) -> None:
        """Give a graph's work to a stream."""
        self._driver.launch(graph, self.stream_handle(stream))

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
        self._driver.destroy(graph)

    def close(self) -> None:
        """Release the primary context."""
        atexit.unregister(self.close)
        with self._clear("release the GPU"):
            self._context.pop()
            self._context.detach()

    @contextmanager
    def _clear(self, what: str) -> Iterator[None]:
        """Turn pycuda's errors into ours."""
        try:
            yield
        except self._cuda.Error as error:
            raise CudaError(f"CUDA could not {what}: {' '.join(str(error).split())}") from error


class _Graphs:
    """The driver's functions for CUDA graphs, by the names they have had since CUDA 11.4."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        pointer, handle = ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p
        self._cuda.cuStreamBeginCapture_v2.argtypes = [handle, ctypes.c_int]
        self._cuda.cuStreamEndCapture.argtypes = [handle, pointer]
        self._cuda.cuGraphInstantiateWithFlags.argtypes = [pointer, handle, ctypes.c_ulonglong]
        self._cuda.cuGraphLaunch.argtypes = [handle, handle]
        for name in ("cuGraphDestroy", "cuGraphExecDestroy"):
            getattr(self._cuda, name).argtypes = [handle]

    def begin(self, stream: int) -> None:
        self._check("begin a CUDA graph", self._cuda.cuStreamBeginCapture_v2(stream, _THREAD_LOCAL))

    def end(self, stream: int) -> int:
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._check("capture a CUDA graph", self._cuda.cuStreamEndCapture(stream, ctypes.byref(graph)))
        try:
            status = self._cuda.cuGraphInstantiateWithFlags(ctypes.byref(ready), graph, 0)
            self._check("instantiate a CUDA graph", status)
        finally:
            self._cuda.cuGraphDestroy(graph)
        return ready.value or 0

    def launch(self, graph: int, stream: int) -> None:
        self._check("launch a CUDA graph", self._cuda.cuGraphLaunch(graph, stream))

    def destroy(self, graph: int) -> None:
        self._check("destroy a CUDA graph", self._cuda.cuGraphExecDestroy(graph))

    def _check(self, what: str, status: int) -> None:
        if status:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(status, ctypes.byref(text))
            raise CudaError(f"CUDA could not {what}: {(text.value or b'error').decode()} ({status})")
