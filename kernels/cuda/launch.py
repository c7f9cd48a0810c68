"""Runs CUDA k1 on a GPU: compiled for the device that is there, launched on torch's stream."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.kernels.cuda.build import build
from poster_edge.kernels.cuda.driver import Driver
from poster_edge.kernels.cuda.problem import THREADS, K1Weights

ENTRY = "poster_edge_k1"


class K1:
    """The loaded kernel.

    Args:
        image: a cubin or fatbin of ``csrc/k1.cu`` [default: compiled here for this device, or cached].
        device: where it runs.
        cache: folder of compiled kernels [default: the user's].

    Raises:
        UnavailableError: no driver or GPU, no nvcc, or an architecture that it does not know.
    """

    def __init__(self, image: bytes | None = None, *, device: int = 0, cache: Path | None = None) -> None:
        if not torch.cuda.is_available():
            # The driver's own reason comes first, where it has one.
            Driver(ordinal=device)
            raise UnavailableError("this build of torch has no CUDA; the CUDA kernels run on torch's GPU tensors")
        torch.cuda.init()  # type: ignore[no-untyped-call]
        self._device = torch.device("cuda", device)
        with torch.cuda.device(device):
            self._driver = Driver(ordinal=device)
            image = image or build("k1", self._driver.capability(), cache=cache).cubin.read_bytes()
            self._function = self._driver.load(image, ENTRY)

    def __call__(self, x: Tensor, weights: K1Weights, *, partials: Tensor | None = None) -> Tensor:
        """Attention of both streams; enqueued on the current stream, does not wait.

        Args:
            x: (B, T, W) FP16.
            weights: on the same device.
            partials: (B, T, L, H, 2) float32 from the depth before, or None.

        Returns:
            (B, T, W) FP16, heads side by side.

        Raises:
            UsageError: tensors that do not fit.
        """
        if x.device != self._device:
            raise UsageError(f"k1 was loaded on {self._device}; x is on {x.device}")
        out = torch.empty_like(x)
        with torch.cuda.device(x.device):
            stream = torch.cuda.current_stream().cuda_stream
            problem = weights.problem(x, partials, out)
            self._driver.launch(self._function, weights.grid(x.shape[0]), THREADS, [problem], stream=stream)
        return out
