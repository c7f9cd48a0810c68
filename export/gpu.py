"""Which NVIDIA GPUs the driver shows, asked of the driver itself; no CUDA package is needed and nothing crashes."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

_LIBRARY = "libcuda.so.1"
#: CUdevice_attribute values of the CUDA driver API.
_MAJOR, _MINOR = 75, 76
#: Where a desktop driver and a Jetson's board support package write their version.
_VERSION_FILES = (
    Path("/sys/module/nvidia/version"),
    Path("/proc/driver/nvidia/version"),
    Path("/etc/nv_tegra_release"),
)
_NUMBER = re.compile(r"\d+(\.\d+)+|R\d+[^,]*, REVISION: [\d.]+")


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver names it.

    Attributes:
        index: in the driver's order, after ``CUDA_VISIBLE_DEVICES``.
        name: such as "NVIDIA GeForce RTX 3080".
        compute_capability: such as "8.6".
        cuda: newest CUDA version that the driver serves, such as "13.0".
        driver: version of the kernel driver (of the board support package on a Jetson), "" where unknown.
    """

    index: int
    name: str
    compute_capability: str
    cuda: str
    driver: str


def visible_gpus() -> tuple[Gpu, ...]:
    """Every GPU that can be used here; empty without a driver, without a GPU, or where the driver is broken."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return ()
    if driver.cuInit(0):
        return ()
    count = _int(driver.cuDeviceGetCount) or 0
    found = (_gpu(driver, index) for index in range(count))
    return tuple(gpu for gpu in found if gpu is not None)


def find_gpu(index: int = 0) -> Gpu | None:
    """GPU ``index``, or None where there is none."""
    return next((gpu for gpu in visible_gpus() if gpu.index == index), None)


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu | None:
    handle = _int(driver.cuDeviceGet, index)
    name = ctypes.create_string_buffer(256)
    if handle is None or driver.cuDeviceGetName(name, len(name), handle):
        return None
    major = _int(driver.cuDeviceGetAttribute, _MAJOR, handle)
    minor = _int(driver.cuDeviceGetAttribute, _MINOR, handle)
    version = _int(driver.cuDriverGetVersion) or 0
    cuda = f"{version // 1000}.{version % 1000 // 10}"
    return Gpu(index, name.value.decode(errors="replace"), f"{major}.{minor}", cuda, _driver_version())


def _int(function: ctypes._NamedFuncPointer, *arguments: int) -> int | None:
    """First output of a driver function that returns 0 when it worked."""
    value = ctypes.c_int()
    return None if function(ctypes.byref(value), *arguments) else value.value


def _driver_version() -> str:
    for path in _VERSION_FILES:
        try:
            found = _NUMBER.search(path.read_text(errors="replace"))
        except OSError:
            continue
        if found:
            return found[0]
    return ""
