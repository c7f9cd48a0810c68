"""Runs a folder of kernels that was compiled ahead: no Triton and no compiler on the device.

Its :meth:`AheadOfTime.launch` serves :mod:`poster_edge.kernels.chain` as Triton's own launcher does.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poster_edge.errors import InputError, UnavailableError, UsageError
from poster_edge.kernels.aot import MANIFEST, SCHEMA, Entry
from poster_edge.kernels.launch import ARGUMENTS, Launch
from poster_edge.kernels.shape import FusionShape

if TYPE_CHECKING:
    from poster_edge.kernels.cuda.driver import Driver, Function

#: Devices of a Jetson: NVIDIA promises no binary compatibility between them and desktop GPUs.
_TEGRA = (87, 110)
#: From here on Triton's cubins hold architecture-specific code and run on that architecture only.
_EXACT_FROM = 90


def read_manifest(folder: Path) -> tuple[FusionShape, str, list[Entry]]:
    """Sizes, precision and entries of a folder; the files themselves are not read.

    Raises:
        InputError: no manifest, or one of another kind or schema.
    """
    try:
        data = json.loads((folder / MANIFEST).read_text())
        if data["schema"] != SCHEMA:
            raise InputError(f"{folder / MANIFEST}: schema {data['schema']}, expected {SCHEMA}; build it again")
        names = [f.name for f in fields(Entry)]
        entries = [Entry(**{n: k[n] for n in names}) for k in data["kernels"]]
        shape = FusionShape(**{**data["shape"], "dims": tuple(data["shape"]["dims"])})
        return shape, str(data["precision"]), entries
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{folder} has no {MANIFEST}: it is no folder of 'poster-edge kernels build'") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST} cannot be read: {type(error).__name__}: {error}") from error


def read_cubin(folder: Path, entry: Entry) -> bytes:
    """An entry's machine code.

    Raises:
        InputError: the file is missing or is not what the manifest says.
    """
    path = folder / entry.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder / MANIFEST} names a file outside the folder: {entry.file}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; build the folder again") from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise InputError(f"{path} is not the file that was built (its SHA-256 differs); build the folder again")
    return data


def pick_arch(archs: set[int], capability: int) -> int:
    """The architecture whose cubins run on a device: its own, or the nearest older one of its kind.

    Args:
        archs: what a folder has.
        capability: 87 for compute capability 8.7.

    Raises:
        UnavailableError: none runs there; says what was built and what to build.
    """
    if capability in archs:
        return capability
    desktop = capability < _EXACT_FROM and capability not in _TEGRA
    older = {a for a in archs - set(_TEGRA) if a // 10 == capability // 10 and a < capability}
    if desktop and older:
        return max(older)
    built = ", ".join(f"sm_{a}" for a in sorted(archs)) or "nothing"
    raise UnavailableError(
        f"these kernels are for {built}; the device is sm_{capability}: "
        f"poster-edge kernels build --arch sm_{capability}"
    )


class AheadOfTime:
    """A folder of kernels on one device.

    Args:
        folder: of ``poster-edge kernels build``.
        driver: the device.

    Raises:
        InputError: a file is missing or was changed.
        UnavailableError: nothing in it runs on the device.
    """

    def __init__(self, folder: Path, driver: Driver) -> None:
        self.shape, self.precision, entries = read_manifest(folder)
        self.arch = pick_arch({e.arch for e in entries}, driver.capability())
        self._driver = driver
        self._entries = [e for e in entries if e.arch == self.arch]
        self._functions: list[Function] = [
            driver.load(read_cubin(folder, e), e.entry, dynamic_shared=e.shared) for e in self._entries
        ]

    def launch(self, step: Launch, tensors: dict[str, Any], *, stream: int | None = None) -> None:
        """Enqueue one planned launch.

        Args:
            step: from :func:`poster_edge.kernels.launch.plan`.
            tensors: arguments by name: tensors or device pointers, and "batch".
            stream: CUDA stream [default: torch's current one for tensors of torch].

        Raises:
            UnavailableError: the folder has no such specialisation.
            UsageError: a pointer is not aligned to 16 bytes.
        """
        index = find_entry(self._entries, step)
        entry = self._entries[index]
        if stream is None:
            stream = _torch_stream(tensors)
        grid = (*step.grid, 1)
        values = arguments(entry, tensors)
        self._driver.launch(self._functions[index], grid, 32 * entry.warps, values, stream=stream)


def find_entry(entries: list[Entry], step: Launch) -> int:
    """Index of the entry that serves a planned launch.

    Raises:
        UnavailableError: none does; says which constants are missing.
    """
    wanted = (step.kernel, step.constants, step.warps)
    fitting = [i for i, e in enumerate(entries) if (e.kernel, e.constants, e.warps) == wanted]
    if fitting:
        # The depth of the pipeline does not change what is computed: an older architecture's will do.
        return min(fitting, key=lambda i: entries[i].stages != step.stages)
    raise UnavailableError(
        f"the folder of kernels has no {step.kernel} for {step.constants} and {step.warps} warps; "
        "build it for this model and precision, with this version"
    )


def arguments(entry: Entry, tensors: dict[str, Any]) -> list[Any]:
    """ctypes values in the kernel's order, Triton's own trailing pointers as NULL.

    Raises:
        UsageError: a pointer is not aligned to 16 bytes.
    """
    values: list[Any] = []
    for name in ARGUMENTS[entry.kernel]:
        if name == "batch":
            values.append(ctypes.c_int32(tensors[name]))
            continue
        address = pointer(tensors[name])
        if address % 16:
            raise UsageError(f"{entry.kernel}: {name} begins at an address that is no multiple of 16")
        values.append(ctypes.c_void_p(address))
    return values + [ctypes.c_void_p(None) for _ in range(entry.trailing)]


def pointer(value: Any) -> int:
    """Device address of a number, or of an array of torch, pycuda, CuPy or numba.

    Raises:
        UsageError: no device array.
    """
    if isinstance(value, int):
        return value
    if hasattr(value, "data_ptr"):
        return int(value.data_ptr())
    if hasattr(value, "gpudata"):
        return int(value.gpudata)
    if hasattr(value, "__cuda_array_interface__"):
        return int(value.__cuda_array_interface__["data"][0])
    raise UsageError(f"a {type(value).__name__} is no device array")


def _torch_stream(tensors: dict[str, Any]) -> int:
    if not any(hasattr(t, "data_ptr") for t in tensors.values()):
        return 0
    import torch

    return int(torch.cuda.current_stream().cuda_stream)
