"""A GPU's memory, streams, events and CUDA graphs: one small interface over ``cuda-python`` and ``pycuda``.

Addresses are plain integers, as TensorRT takes them; streams, events and graphs are opaque.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import PosterEdgeError, UnavailableError, UsageError
from poster_edge.export.gpu import Gpu, find_gpu, visible_gpus
from poster_edge.optional import EXTRAS, available

#: Names the package that is to be used: "cuda-python" or "pycuda".
PACKAGE_VARIABLE = "POSTER_EDGE_CUDA"
#: Package -> the module that it is known by; the first one that is installed is taken.
PACKAGES = {"cuda-python": "cuda.bindings", "pycuda": "pycuda"}


class CudaError(PosterEdgeError):
    """The GPU or its driver failed at run time; exit code 1."""


class Device(Protocol):
    """One GPU, to be used from the thread that opened it; close it at the end.

    Attributes:
        gpu: name, compute capability, CUDA and driver version.
        package: what serves it, such as "cuda-python 13.5.0".
    """

    gpu: Gpu
    package: str

    def activate(self) -> None:
        """Make this device the calling thread's own.

        Raises:
            CudaError: the package cannot serve another thread than the one that opened the device.
        """

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of device memory, aligned for anything."""

    def free(self, address: int) -> None:
        """Give back what :meth:`allocate` gave."""

    def allocate_host(self, size: int) -> NDArray[np.uint8]:
        """Page-locked host memory as an array of (size,) bytes; valid until :meth:`free_host`."""

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Give back what :meth:`allocate_host` gave: the same array, no view of it."""

    def create_stream(self) -> Any:
        """A stream of its own, which does not wait for the default stream."""

    def stream_handle(self, stream: Any) -> int:
        """The stream's ``cudaStream_t`` as a number."""

    def destroy_stream(self, stream: Any) -> None:
        """Give a stream back; its work must be done."""

    def synchronise(self, stream: Any) -> None:
        """Wait until all work of a stream is done."""

    def copy_to_device(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous page-locked array to the device, in the stream's order.

        The array must stay untouched until the stream has come that far.
        """

    def copy_to_host(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Fill a contiguous page-locked array from the device, in the stream's order."""

    def record(self, stream: Any) -> Any:
        """An event that happens when the stream has done what it was given so far."""

    def wait(self, event: Any, since: Any = None) -> float:
        """Wait for an event, and give it back, and an earlier one of the same stream with it.

        Returns:
            Time from the earlier event to this one in ms, by the GPU's clock; 0 without an earlier one.
        """

    def begin_capture(self, stream: Any) -> None:
        """From here on, work given to the stream is noted and not done."""

    def end_capture(self, stream: Any) -> Any:
        """A graph of the noted work, ready to launch.

        Raises:
            CudaError: something was done that cannot be captured; the stream works normally again.
        """

    def launch(self, graph: Any, stream: Any) -> None:
        """Give a graph's work to a stream."""

    def destroy_graph(self, graph: Any) -> None:
        """Give a graph back."""

    def close(self) -> None:
        """Let the device go; everything made on it must have been given back."""


def open_device(index: int = 0, *, package: str = "auto") -> Device:
    """A GPU through the CUDA package that is installed.

    Args:
        index: of the GPU, as the driver counts.
        package: "cuda-python" or "pycuda"; "auto": ``POSTER_EDGE_CUDA``, else the first that is installed.

    Raises:
        UnavailableError: no such GPU, no driver, or no package; says what is missing and what to do.
        UsageError: an unknown package.
    """
    gpu = require_gpu(index)
    return _opener(choose_package(package))(gpu)


def require_gpu(index: int = 0) -> Gpu:
    """The facts of GPU ``index``.

    Raises:
        UnavailableError: there is none; says whether the driver or the GPU is missing.
    """
    gpu = find_gpu(index)
    if gpu is not None:
        return gpu
    others = ", ".join(f"cuda:{g.index} {g.name}" for g in visible_gpus())
    if others:
        raise UnavailableError(f"there is no GPU cuda:{index} here, only {others}; choose one with --device")
    raise UnavailableError(
        f"no NVIDIA GPU can be used here: {_why_none()}; use --runtime onnxruntime or openvino on this machine"
    )


def choose_package(package: str = "auto") -> str:
    """Name of the CUDA package to use, without loading it.

    Raises:
        UsageError: an unknown name.
        UnavailableError: it is not installed.
    """
    asked = os.environ.get(PACKAGE_VARIABLE, "auto") if package == "auto" else package
    if asked not in ("auto", *PACKAGES):
        raise UsageError(f"CUDA package '{asked}' ({PACKAGE_VARIABLE}): expected {' or '.join(PACKAGES)}")
    wanted = list(PACKAGES) if asked == "auto" else [asked]
    for name in wanted:
        if available(PACKAGES[name]):
            return name
    extra = EXTRAS["tensorrt"]
    raise UnavailableError(
        f"{' or '.join(wanted)} is needed to use GPU memory but is not installed: "
        f"pip install 'poster-edge[{extra}]' brings cuda-python; pip install pycuda compiles the other"
    )


def _opener(package: str) -> Callable[[Gpu], Device]:
    if package == "pycuda":
        from poster_edge.runtime.cuda_pycuda import PyCudaDevice

        return PyCudaDevice
    from poster_edge.runtime.cuda_python import CudaPythonDevice

    return CudaPythonDevice


def _why_none() -> str:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        inside = any(Path(p).exists() for p in ("/.dockerenv", "/run/.containerenv"))
        hint = "; start the container with --gpus all, on a Jetson with --runtime nvidia" if inside else ""
        return f"the driver is missing (libcuda.so.1 is not found{hint})"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "the driver shows none" + (f" (CUDA_VISIBLE_DEVICES is '{hidden}')" if hidden is not None else "")
