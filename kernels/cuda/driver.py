"""The part of CUDA's driver API that launches a compiled kernel, through ctypes.

It needs no package, only the driver's ``libcuda``, and works in whatever context is current: that of
torch, pycuda, cuda-python or CuPy, whose device pointers and streams it takes.  Without a current
context it takes the device's primary one, which torch and cuda-python share.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poster_edge.errors import PosterEdgeError, UnavailableError
from poster_edge.kernels.toolchain import SHARED_DEFAULT

_SONAME = "libcuda.so.1"
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
#: Prototypes of what is called; a handle or a device pointer is a void pointer.
_P, _I, _U = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (_U,),
    "cuDeviceGetCount": (_P,),
    "cuDeviceGet": (_P, _I),
    "cuDeviceGetAttribute": (_P, _I, _I),
    "cuCtxGetCurrent": (_P,),
    "cuCtxGetDevice": (_P,),
    "cuCtxSetCurrent": (_P,),
    "cuDevicePrimaryCtxRetain": (_P, _I),
    "cuModuleLoadData": (_P, ctypes.c_char_p),
    "cuModuleGetFunction": (_P, _P, ctypes.c_char_p),
    "cuFuncSetAttribute": (_P, _I, _I),
    "cuLaunchKernel": (_P, _U, _U, _U, _U, _U, _U, _U, _P, _P, _P),
    "cuGetErrorString": (_I, _P),
}


@dataclass(frozen=True)
class Function:
    """A loaded kernel: its handle, and the bytes of dynamic shared memory of a launch."""

    handle: int
    dynamic_shared: int


class Driver:
    """CUDA's driver on one device.

    Args:
        ordinal: number of the device, used where no context is current.
        library: the driver's library [default: libcuda.so.1].

    Raises:
        UnavailableError: no driver, or no GPU.
    """

    def __init__(self, *, ordinal: int = 0, library: Path | None = None) -> None:
        try:
            self._cuda = ctypes.CDLL(str(library or _SONAME))
            for name, types in _PROTOTYPES.items():
                getattr(self._cuda, name).argtypes = types
        except (OSError, AttributeError) as error:
            raise UnavailableError(f"no NVIDIA driver: {error}; kernels need a GPU and its driver to run") from error
        code = self._cuda.cuInit(0)
        count = ctypes.c_int(0)
        if code == 0:
            self._call("cuDeviceGetCount", ctypes.byref(count))
        if code or count.value <= ordinal:
            reason = f"CUDA error {code}" if code else f"{count.value} found, number {ordinal} asked for"
            raise UnavailableError(f"no usable NVIDIA GPU ({reason}); kernels need one to run")
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), ordinal)
        self._enter_context()

    def _enter_context(self) -> None:
        context = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(context))
        if context:
            self._call("cuCtxGetDevice", ctypes.byref(self._device))
            return
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)

    def capability(self) -> int:
        """Compute capability of the device: 87 for 8.7."""
        parts = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            parts.append(value.value)
        return 10 * parts[0] + parts[1]

    def load(self, image: bytes, name: str, *, dynamic_shared: int = 0) -> Function:
        """Load a kernel from a cubin, a fatbin or PTX; it stays loaded.

        Raises:
            PosterEdgeError: the image does not suit the device or has no such kernel.
        """
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), image)
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        if dynamic_shared > SHARED_DEFAULT:
            self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, dynamic_shared)
        assert function.value is not None
        return Function(function.value, dynamic_shared)

    def launch(
        self,
        function: Function,
        grid: tuple[int, int, int],
        threads: int,
        arguments: Sequence[Any],
        *,
        stream: int = 0,
    ) -> None:
        """Enqueue a launch; does not wait.

        Args:
            function: from :meth:`load`.
            grid: blocks in x, y, z.
            threads: of a block.
            arguments: ctypes values in the kernel's order, copied before this returns.
            stream: handle of a CUDA stream; 0 is the default one.

        Raises:
            PosterEdgeError: the driver refuses the launch.
        """
        self._call(
            "cuLaunchKernel",
            function.handle,
            *grid,
            threads,
            1,
            1,
            function.dynamic_shared,
            stream,
            pointers(arguments),
            None,
        )

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(code, ctypes.byref(text))
            reason = text.value.decode() if text.value else "unknown error"
            raise PosterEdgeError(f"CUDA: {name} failed with {code} ({reason})")


def pointers(arguments: Sequence[Any]) -> ctypes.Array[ctypes.c_void_p]:
    """The array of addresses that cuLaunchKernel reads; the values must be kept until it returns."""
    return (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
