"""The whole network through ``torch.compile`` as a candidate: for comparison only."""

from __future__ import annotations

from typing import Any

from poster_edge.errors import UnavailableError
from poster_edge.runtime.torch_runner import TorchRunner


class CompiledRunner(TorchRunner):
    """The network through ``torch.compile``, compiled for one batch size; see :class:`TorchRunner`."""

    def __enter__(self) -> CompiledRunner:
        try:
            super().__enter__()
        except UnavailableError:
            raise
        except Exception as error:  # a compiler that is missing or fails raises many types
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnavailableError(f"torch.compile cannot compile {self.bundle.manifest.model}: {reason}") from error
        # What computes the attention is the compiler's choice, and the version is torch's.
        self.description = self.description.replace("torch ", "torch.compile ", 1).partition(", kernels")[0] + ")"
        return self

    def _load(self) -> Any:
        # Each batch size its own code, as the figure is about the best that it can do.
        return self._torch.compile(super()._load(), dynamic=False)
