"""What CUDA k1 is given: the C struct ``Problem`` of ``csrc/k1.cu`` and the weights behind its pointers."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from poster_edge.errors import UsageError
from poster_edge.kernels.pack import PackedDepth
from poster_edge.kernels.shape import FusionShape

#: Head widths that the kernel is instantiated for.
HEAD_WIDTHS = (64, 32, 16)
MAX_LEVELS = 3
THREADS = 128


class Problem(ctypes.Structure):
    """Mirror of ``poster_edge::Problem``; one launch parameter, passed by value."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("partials", ctypes.c_void_p),
        ("kv", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("query", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("tokens", ctypes.c_int),
        ("heads", ctypes.c_int),
        ("levels", ctypes.c_int),
        ("width", ctypes.c_int),
        ("dims", ctypes.c_int * MAX_LEVELS),
    )


@dataclass(frozen=True)
class K1Weights:
    """One depth's weights as k1 reads them.

    Attributes:
        shape: the sizes.
        kv: flat FP16, as in :class:`~poster_edge.kernels.pack.PackedDepth`.
        sums: (2 streams, 2, W) float32: K's and V's rows of ``kv``, as rounded, summed; LayerNorm's
            mean is subtracted with them after the product.
        query: (2 streams, 2, W) float32 factor and shift.
    """

    shape: FusionShape
    kv: Tensor
    sums: Tensor
    query: Tensor

    @classmethod
    def from_packed(cls, packed: PackedDepth) -> K1Weights:
        """The part of a packed depth that k1 needs.

        Raises:
            UsageError: another precision than "fp16", or sizes that the kernel is not made for.
        """
        reason = unsupported(packed.shape)
        if packed.precision != "fp16":
            reason = f"weights packed as {packed.precision}; it takes fp16"
        if reason is not None:
            raise UsageError(f"the CUDA kernel k1 cannot serve {reason}")
        return cls(packed.shape, packed.kv, row_sums(packed), packed.query)

    def to(self, device: torch.device | str) -> K1Weights:
        """The same weights elsewhere."""
        return replace(self, kv=self.kv.to(device), sums=self.sums.to(device), query=self.query.to(device))

    def problem(self, x: Tensor, partials: Tensor | None, out: Tensor) -> Problem:
        """Pointers and sizes of one call; the tensors must outlive the launch.

        Args:
            x: (B, T, W) FP16.
            partials: (B, T, L, H, 2) float32, or None: k1 measures the rows itself.
            out: (B, T, W) FP16.

        Raises:
            UsageError: a tensor of another shape, type or device, or not contiguous.
        """
        s = self.shape
        rows = (x.shape[0], s.tokens, s.width)
        _check("x", x, rows, torch.float16, self.kv.device)
        _check("out", out, rows, torch.float16, self.kv.device)
        if partials is not None:
            _check("partials", partials, (*rows[:2], s.levels, s.heads, 2), torch.float32, self.kv.device)
        dims = (ctypes.c_int * MAX_LEVELS)(*s.dims)
        pointers = [t.data_ptr() for t in (self.kv, self.sums, self.query, out)]
        measured = None if partials is None else partials.data_ptr()
        return Problem(x.data_ptr(), measured, *pointers, s.per_stream, s.heads, s.levels, s.width, dims)

    def grid(self, batch: int) -> tuple[int, int, int]:
        """Blocks of one launch: a level, a stream and a head each, for every sample."""
        return 2 * self.shape.levels * self.shape.heads, batch, 1


def unsupported(shape: FusionShape) -> str | None:
    """Why k1 cannot serve these sizes, or None."""
    widths = [shape.head_width(i) for i in range(shape.levels)]
    if shape.levels > MAX_LEVELS:
        return f"{shape.levels} pyramid levels (up to {MAX_LEVELS})"
    if any(w not in HEAD_WIDTHS for w in widths):
        return f"heads {widths} wide (it takes {', '.join(map(str, HEAD_WIDTHS))})"
    return None if shape.per_stream <= 64 else f"{shape.per_stream} tokens a stream (up to 64)"


def row_sums(packed: PackedDepth) -> Tensor:
    """Sums over the rows of K's and V's weights, (2 streams, 2, W) float32, added in float64."""
    levels, begin = [], 0
    for d in packed.shape.dims:
        # 4·D·D -> 2 streams x 2 x D x D
        rows = packed.kv[begin : begin + 4 * d * d].reshape(2, 2, d, d)
        levels.append(rows.double().sum(dim=-1))
        begin += 4 * d * d
    return torch.cat(levels, dim=-1).float().contiguous()


def _check(name: str, t: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    found = (tuple(t.shape), t.dtype, t.device)
    if found != (shape, dtype, device) or not t.is_contiguous():
        layout = "" if t.is_contiguous() else ", not contiguous"
        raise UsageError(
            f"k1: {name} is {found[0]} {t.dtype} on {t.device}{layout}; expected {shape} {dtype} on {device}"
        )
