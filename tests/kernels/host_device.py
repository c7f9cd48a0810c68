"""A GPU whose memory is the host's: a launch is computed by the kernel's reference, on the addresses it is given."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poster_edge.kernels import chain, reference
from poster_edge.kernels.aot import Entry
from poster_edge.kernels.cuda.driver import Function, pointers
from poster_edge.kernels.launch import ARGUMENTS
from poster_edge.kernels.pack import PackedDepth

LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
)


def at_address(address: int, like: Tensor) -> Tensor:
    """The memory at an address as a tensor of another's shape and type."""
    memory = (ctypes.c_char * like.nbytes).from_address(address)
    return torch.frombuffer(memory, dtype=like.dtype).reshape(like.shape)


@dataclass
class Device:
    """A GPU whose memory is the host's: computes each launch with the kernel's reference.

    Attributes:
        entries: the compiled kernels.
        folder: their files.
        packed: any depth; gives shapes and types, no values.
        launched: what was launched, in order: kernel, grid, threads, shared memory, stream.
        failure: what went wrong in a launch.
        batch: B, where a launch does not say it.
    """

    entries: list[Entry]
    folder: Path
    packed: PackedDepth
    launched: list[tuple[Entry, tuple[int, ...], int, int, int]] = field(default_factory=list)
    failure: BaseException | None = None
    batch: int = 0

    def __post_init__(self) -> None:
        self.callback = LAUNCH(self._launch)
        # The longer files first: a file for sm_86 begins like its twin for sm_87.
        files = sorted(self.entries, key=lambda e: -e.bytes)
        self._images = [(e, (self.folder / e.file).read_bytes()) for e in files]

    def capability(self) -> int:
        return 87

    def load(self, image: bytes, name: str, *, dynamic_shared: int) -> Function:
        """As the driver of ``poster_edge.kernels.cuda.driver``; a handle is the number of a file."""
        number = next(i for i, (e, data) in enumerate(self._images) if (data, e.entry) == (image, name))
        return Function(number, dynamic_shared)

    def launch(self, function: Function, grid: Any, threads: int, arguments: Any, *, stream: int) -> None:
        entry = self._images[function.handle][0]
        self.launched.append((entry, grid, threads, function.dynamic_shared, stream))
        self._compute(entry, pointers(arguments))

    def _launch(self, image: int, grid: Any, threads: int, shared: int, stream: int | None, arguments: Any) -> int:
        try:
            entry = next(e for e, data in self._images if ctypes.string_at(image, len(data)) == data)
            self.launched.append((entry, tuple(grid[:3]), threads, shared, stream or 0))
            self._compute(entry, arguments)
        except BaseException as error:  # cannot pass through C
            self.failure = self.failure or error
            return 1
        return 0

    def _compute(self, entry: Entry, arguments: Any) -> None:
        names = ARGUMENTS[entry.kernel]
        size = {n: ctypes.c_int if n == "batch" else ctypes.c_size_t for n in names}
        values = {n: size[n].from_address(arguments[i]).value for i, n in enumerate(names)}
        trailing = [ctypes.c_size_t.from_address(arguments[len(names) + i]).value for i in range(entry.trailing)]
        assert trailing == [0] * entry.trailing
        batch = values.pop("batch", self.batch)
        assert batch == self.batch
        like = self._like(batch, last=bool(entry.constants.get("LAST", False)))
        t = {n: at_address(a, like[n]) for n, a in values.items()}
        weights = {n: v for n, v in t.items() if n in self.packed.tensors()}
        # Weights that the launch was not given are not there to be read.
        absent = {n: torch.full_like(v, 0) for n, v in self.packed.tensors().items() if n not in weights}
        compute(entry, t, replace(self.packed, **weights, **absent))

    def _like(self, batch: int, *, last: bool) -> dict[str, Tensor]:
        shape = self.packed.shape
        space = chain.Workspace(shape, batch, torch.float16, torch.device("cpu")).tensors
        levels = {
            f"level{i}": torch.empty(batch, shape.tokens, d, dtype=torch.float16) for i, d in enumerate(shape.dims)
        }
        out = space["out"] if last else space["x"]
        return {**space, **self.packed.tensors(), **levels, "out": out}


def compute(entry: Entry, t: dict[str, Tensor], packed: PackedDepth) -> None:
    """One kernel by its reference, on the tensors that a launch was given."""
    shape = packed.shape
    if entry.kernel == "enter":
        t["x"].copy_(reference.join_levels([t[f"level{i}"] for i in range(shape.levels)]))
        t["partials"].copy_(reference.partials(t["x"].float(), shape))
    elif entry.kernel == "attend":
        # The kernel takes its statistics from here.
        assert torch.allclose(t["partials"], reference.partials(t["x"].float(), shape), rtol=1e-2, atol=1e-3)
        t["attended"].copy_(reference.attend(t["x"], packed))
    elif entry.kernel == "project":
        t["y"].copy_(reference.project(t["x"], t["attended"], packed))
        t["y_partials"].copy_(reference.partials(t["y"].float(), shape))
    elif entry.kernel == "expand":
        assert torch.allclose(t["y_partials"], reference.partials(t["y"].float(), shape), rtol=1e-2, atol=1e-3)
        t["hidden"].copy_(reference.expand(t["y"], packed))
    elif entry.kernel == "contract":
        t["z"].copy_(reference.contract(t["y"], t["hidden"], packed))
    else:
        out, last = reference.mix(t["z"], packed), bool(entry.constants["LAST"])
        t["out"].copy_(out[:, 0, : shape.dims[0]] if last else out)
        if not last:
            t["partials"].copy_(reference.partials(out.float(), shape))
