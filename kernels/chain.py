"""Runs the fused kernels of one or all depths, whichever back end launches them.

A depth is five launches for all levels, both streams and the whole batch; one more at the start lays
the pyramid out.  Nothing here waits for the GPU or allocates outside torch's allocator, so that a
CUDA graph can capture the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from poster_edge.errors import UsageError
from poster_edge.kernels.launch import ARGUMENTS, DEPTH, OUTPUTS, Launch, plan
from poster_edge.kernels.pack import PackedDepth
from poster_edge.kernels.shape import FusionShape

#: Launches one kernel on its arguments by name.
Launcher = Callable[[Launch, "dict[str, Tensor | int]"], None]


@dataclass
class Workspace:
    """Activations and partial sums of one forward pass, reused by every depth.

    Attributes:
        shape: the sizes.
        batch: B.
        dtype: type of the activations.
        device: where they are.
        poison: fill what a kernel is about to write with NaN, so that an unwritten value shows.
        tensors: x, attended, y, z (B, T, W); hidden (B, T, R·W); partials, y_partials (B, T, L, H, 2)
            in float32; out (B, D0), the readout.
    """

    shape: FusionShape
    batch: int
    dtype: torch.dtype
    device: torch.device
    poison: bool = False
    tensors: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        s = self.shape
        rows, sums = (self.batch, s.tokens), (self.batch, s.tokens, s.levels, s.heads, 2)
        sizes = dict.fromkeys(("x", "attended", "y", "z"), (*rows, s.width))
        self.tensors = {k: torch.empty(v, dtype=self.dtype, device=self.device) for k, v in sizes.items()}
        self.tensors["hidden"] = torch.empty(*rows, s.ratio * s.width, dtype=self.dtype, device=self.device)
        self.tensors["out"] = torch.empty(self.batch, s.dims[0], dtype=self.dtype, device=self.device)
        for name in ("partials", "y_partials"):
            self.tensors[name] = torch.empty(sums, dtype=torch.float32, device=self.device)

    def run(
        self, kernel: str, launcher: Launcher, *, extra: dict[str, Tensor], precision: str, last: bool = False
    ) -> None:
        """Launch one kernel on these tensors and on ``extra`` (weights, or the levels)."""
        known: dict[str, Tensor | int] = {**self.tensors, **extra, "batch": self.batch}
        if kernel == "mix" and not last:
            known["out"] = self.tensors["x"]
        arguments = {name: known[name] for name in ARGUMENTS[kernel]}
        if self.poison:
            for name in OUTPUTS[kernel]:
                written = arguments[name]
                assert isinstance(written, Tensor)
                written.fill_(torch.nan)
        capability = torch.cuda.get_device_capability(self.device) if self.device.type == "cuda" else None
        launcher(plan(kernel, self.shape, self.batch, precision, last=last, capability=capability), arguments)


def enter(levels: Sequence[Tensor], packed: PackedDepth, launcher: Launcher, *, poison: bool = False) -> Workspace:
    """A workspace that holds the pyramid.

    Args:
        levels: (B, T, D_i), widest first, in the type of the packed activations.
        packed: any depth's weights.
        launcher: the back end.
        poison: see :class:`Workspace`.

    Raises:
        UsageError: the levels do not fit the weights.
    """
    shape, batch = packed.shape, levels[0].shape[0]
    expected = [(batch, shape.tokens, d) for d in shape.dims]
    found = [tuple(level.shape) for level in levels]
    if found != expected or any(level.dtype != packed.dtype or level.device != packed.device for level in levels):
        raise UsageError(
            f"levels {found} in {levels[0].dtype} on {levels[0].device} do not fit weights for {expected} "
            f"in {packed.dtype} on {packed.device}"
        )
    space = Workspace(shape, batch, packed.dtype, packed.device, poison=poison)
    # Levels that do not exist are never read.
    extra = {f"level{i}": levels[min(i, len(levels) - 1)].contiguous() for i in range(3)}
    space.run("enter", launcher, extra=extra, precision=packed.precision)
    return space


def run_depth(space: Workspace, packed: PackedDepth, launcher: Launcher, *, last: bool = False) -> Tensor:
    """One depth in place.

    Returns:
        the rows (B, T, W), or the widest level's first token (B, D0) where ``last``.
    """
    weights = packed.tensors()
    for kernel in DEPTH:
        space.run(kernel, launcher, extra=weights, precision=packed.precision, last=last)
    return space.tensors["out" if last else "x"]


def run(levels: Sequence[Tensor], depths: Sequence[PackedDepth], launcher: Launcher, *, poison: bool = False) -> Tensor:
    """All depths: levels (B, T, D_i), widest first, -> the widest level's first token (B, D0)."""
    space = enter(levels, depths[0], launcher, poison=poison)
    for packed in depths[:-1]:
        run_depth(space, packed, launcher)
    return run_depth(space, depths[-1], launcher, last=True)
