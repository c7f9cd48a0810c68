"""The images of a run at the network's size: all in memory where they fit, else decoded when they are asked for.

AffectNet's 290,000 images take 43 GB at 224 x 224, and every process of a machine would keep them.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poster_edge.data.faces import FaceSet
from poster_edge.errors import UsageError
from poster_edge.train.loop import Device
from poster_edge.train.prepare import resident

KINDS = ("auto", "memory", "files")
#: Images that one thread decodes at a time.
_PIECE = 16
#: Share of the free memory that images may take.
_SHARE = 0.5


class Pictures:
    """Rows of a face set as uint8 (N, K, S, S), K 1 for gray images, else 3; indexed like a tensor of them.

    Args:
        faces: the whole set.
        rows: row numbers that will be asked for; the others are not decoded.
        side: S.
        colour: "gray", "rgb" or "bgr".
        device: where the network computes; few images are kept in a GPU's memory.
        kind: "memory", "files", or "auto": in memory when they take at most half of what is free.
        sharers: processes of this machine that keep images of their own.

    Raises:
        UsageError: they are to be kept in memory and do not fit.
    """

    def __init__(
        self,
        faces: FaceSet,
        rows: NDArray[np.int64],
        side: int,
        colour: str,
        device: Device,
        *,
        kind: str = "auto",
        sharers: int = 1,
    ) -> None:
        self._faces, self._side, self._colour = faces, side, colour
        self._threads = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // sharers))
        self.shape = torch.Size((len(faces), 1 if colour == "gray" else 3, side, side))
        needed, free = len(rows) * self.shape[1:].numel() * sharers, free_bytes()
        fits = free is None or needed <= _SHARE * free
        if kind == "memory" and not fits:
            raise UsageError(
                f"--images memory: {len(rows)} images of {side} x {side} take {needed / 2**30:.1f} GiB, "
                f"{(free or 0) / 2**30:.1f} are free; use --images files"
            )
        self._kept = resident(self._all(rows), device) if kind == "memory" or (kind == "auto" and fits) else None

    @property
    def device(self) -> torch.device:
        """Where rows are found."""
        return torch.device("cpu") if self._kept is None else self._kept.device

    @property
    def in_memory(self) -> bool:
        """Whether nothing is decoded any more."""
        return self._kept is not None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Images (B, K, S, S) of row numbers (B,), on :attr:`device`.

        Raises:
            InputError: one cannot be read.
        """
        return self._decoded(rows.cpu().numpy()) if self._kept is None else self._kept[rows]

    def _all(self, rows: NDArray[np.int64]) -> Tensor:
        # Pages of rows that are never asked for are never touched.
        table = torch.zeros(self.shape, dtype=torch.uint8)
        for piece in np.array_split(rows, max(1, len(rows) // 4096)):
            table[torch.from_numpy(piece)] = self._decoded(piece)
        return table

    def _decoded(self, rows: NDArray[np.int64]) -> Tensor:
        pieces = [rows[start : start + _PIECE] for start in range(0, len(rows), _PIECE)]
        # OpenCV lets other threads run while it decodes and resizes.
        found = self._threads.map(lambda piece: self._faces.squares(piece, self._side, self._colour), pieces)
        empty = np.empty((0, *self.shape[1:]), np.uint8)
        return torch.from_numpy(np.concatenate([empty, *found]))


def free_bytes() -> int | None:
    """Memory that can be had without swapping, in bytes; None where the system does not say."""
    table = Path("/proc/meminfo")
    if table.is_file():
        lines = dict(line.split(":", 1) for line in table.read_text().splitlines() if ":" in line)
        if "MemAvailable" in lines:
            return int(lines["MemAvailable"].split()[0]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
