"""The plugin's weights: the packed tensors of all depths in one array, and where in it each begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from poster_edge.errors import UsageError
from poster_edge.kernels.pack import PackedDepth
from poster_edge.kernels.shape import FusionShape

#: Offsets are counted in units of so many bytes; ``kUnit`` of ``csrc/chain.h``.
UNIT = 256


def join_weights(depths: Sequence[PackedDepth]) -> tuple[NDArray[np.int32], list[int]]:
    """All tensors of all depths, one after another.

    Args:
        depths: packed, of one precision and shape.

    Returns:
        the bytes as int32, and the offsets of each depth's tensors in units of :data:`UNIT` bytes, in the order
        of :meth:`~poster_edge.kernels.pack.PackedDepth.tensors`.

    Raises:
        UsageError: depths of several precisions or shapes, or none.
    """
    if len({(d.precision, d.shape) for d in depths}) != 1:
        raise UsageError("a plugin's weights are depths of one precision and shape, at least one")
    parts: list[bytes] = []
    offsets: list[int] = []
    end = 0
    for depth in depths:
        for tensor in depth.tensors().values():
            # bfloat16 has no type in NumPy; bytes are bytes.
            data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            offsets.append(end)
            # An absent tensor takes a unit too, so that no offset points past the end.
            units = max(-(-len(data) // UNIT), 1)
            parts.append(data.ljust(units * UNIT, b"\0"))
            end += units
    return np.frombuffer(b"".join(parts), np.int32), offsets


def shape_attribute(shape: FusionShape) -> list[int]:
    """The attribute ``shape``: N, H, R, whether tokens are mixed, and the widths, widest first."""
    return [shape.per_stream, shape.heads, shape.ratio, int(shape.mix), *shape.dims]
