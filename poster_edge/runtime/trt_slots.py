"""Page-locked host memory in two sets, and the device memory that both of them are copied to and from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.runtime.device_memory import Device
from poster_edge.runtime.trt_engine import Tensor


class HostSlot:
    """Page-locked memory for one batch in flight, one piece a tensor; it grows and is used again.

    Args:
        device: where page-locked memory comes from.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memory: dict[str, NDArray[np.uint8]] = {}

    def array(self, tensor: Tensor, rows: int, *, limit: int) -> NDArray[Any]:
        """A (rows, \\*shape) view of a tensor's memory, whose content is whatever was there; the slot must be idle.

        Args:
            tensor: which.
            rows: of the batch.
            limit: most rows there will ever be.
        """
        memory = self._memory.get(tensor.name)
        if memory is None or memory.nbytes < tensor.bytes(rows):
            if memory is not None:
                del self._memory[tensor.name]
                self._device.free_host(memory)
            memory = self._device.allocate_host(tensor.bytes(grown(rows, limit)))
            self._memory[tensor.name] = memory
        return tensor.view(memory, rows)

    def close(self) -> None:
        """Give the memory back; no view of it may be used any more."""
        while self._memory:
            self._device.free_host(self._memory.popitem()[1])


class DeviceTensors:
    """Device memory of every input and output, for up to :attr:`rows` rows.

    Args:
        device: where it comes from.
        tensors: inputs and outputs.
        limit: most rows there will ever be.

    Attributes:
        rows: batch size that fits.
        addresses: tensor name -> address.
    """

    def __init__(self, device: Device, tensors: Iterable[Tensor], *, limit: int) -> None:
        self._device = device
        self._tensors = tuple(tensors)
        self._limit = limit
        self.rows = 0
        self.addresses: dict[str, int] = {}

    def grow(self, rows: int) -> None:
        """Make room for a batch; the old memory is given back, so the stream must be at its end."""
        self.close()
        room = grown(rows, self._limit)
        for tensor in self._tensors:
            self.addresses[tensor.name] = self._device.allocate(tensor.bytes(room))
        self.rows = room

    def close(self) -> None:
        """Give the memory back."""
        self.rows = 0
        while self.addresses:
            self._device.free(self.addresses.popitem()[1])


def grown(rows: int, limit: int) -> int:
    """Rows to make room for: the next power of two, so that sizes that creep up do not allocate each time."""
    return min(1 << (rows - 1).bit_length(), max(limit, rows))
