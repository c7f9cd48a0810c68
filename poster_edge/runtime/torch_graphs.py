"""CUDA graphs of a whole forward pass, one for each batch size, captured when the size first comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poster_edge.errors import UnavailableError

if TYPE_CHECKING:
    from torch import Tensor

#: Graphs that are kept; each holds its activations.
LIMIT = 8
#: Runs before a capture, in which libraries choose algorithms and kernels are compiled.
_WARM_UP = 3


@dataclass(frozen=True)
class Captured:
    """One captured forward pass.

    Attributes:
        given: the input that it reads; a batch is copied into it.
        result: the output that it writes.
        replay: runs it.
    """

    given: Tensor
    result: Tensor
    replay: Callable[[], None]


class CudaGraphs:
    """Replays a model; the least recently used graphs above the limit are dropped.

    Args:
        model: the network, in evaluation mode, on a GPU.
        limit: batch sizes whose graphs are kept.
        capture: makes the graph of one batch [default: :func:`capture_forward`].
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        *,
        limit: int = LIMIT,
        capture: Callable[[Callable[[Tensor], Tensor], Tensor], Captured] | None = None,
    ) -> None:
        self._model, self._limit, self._capture = model, limit, capture or capture_forward
        self._kept: OrderedDict[tuple[int, ...], Captured] = OrderedDict()

    @property
    def batches(self) -> list[int]:
        """Batch sizes whose graphs are kept, the least recently used first."""
        return [shape[0] for shape in self._kept]

    def run(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, S, S); the caller's own, not the graph's.

        Raises:
            UnavailableError: the model cannot be captured.
        """
        shape = tuple(x.shape)
        if shape not in self._kept:
            while len(self._kept) >= self._limit:
                self._kept.popitem(last=False)
            self._kept[shape] = self._capture(self._model, x)
        self._kept.move_to_end(shape)
        captured = self._kept[shape]
        captured.given.copy_(x)
        captured.replay()
        return captured.result.clone()


def capture_forward(model: Callable[[Tensor], Tensor], x: Tensor) -> Captured:
    """Capture one forward pass on images like ``x`` (B, 3, S, S).

    Raises:
        UnavailableError: something in it waits for the GPU or cannot be recorded; says what.
    """
    import torch

    given = x.clone()
    try:
        with torch.cuda.device(x.device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    model(given)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = model(given)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnavailableError(
            f"the forward pass cannot be captured as a CUDA graph ({reason}); leave --cuda-graph out"
        ) from error
    return Captured(given, result, graph.replay)
