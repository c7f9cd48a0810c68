"""A whole optimiser step as one CUDA graph: the same kernels, launched together.

A small network's step is hundreds of short kernels, and launching them one by one takes longer than computing
them.  Source: "CUDA Graphs", PyTorch's notes on CUDA semantics ("Whole-network capture").
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Tensor, ...]
Step = Callable[[Inputs], Tensor]
_log = logging.getLogger(__name__)


class StepGraph:
    """Runs a step, from the fourth call on as a graph; inputs of another shape run without.

    Args:
        step: forward pass, backward pass and update; returns the loss.  It must not wait for the GPU.
        before: called before a step that is not a replay: forgets the gradients.
    """

    #: Steps that are run one kernel at a time first, so that libraries have chosen their kernels.
    WARM_UP = 3

    def __init__(self, step: Step, before: Callable[[], None]) -> None:
        self._step, self._before = step, before
        # torch's stubs do not know its arguments.
        stream: Any = torch.cuda.Stream
        self._stream = stream()
        self._done = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Inputs = ()
        self._loss = torch.empty(0)
        self._given_up = False

    def __call__(self, inputs: Inputs) -> Tensor:
        """Take one step; returns the loss, still on the GPU."""
        if self._graph is None and self._done >= self.WARM_UP and not self._given_up:
            self._capture(inputs)
        if self._graph is None or [t.shape for t in inputs] != [t.shape for t in self._inputs]:
            return self._plain(inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._loss.clone()

    def _plain(self, inputs: Inputs) -> Tensor:
        # On the stream of the capture: what autograd keeps of a stream must be the same in both.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._before()
            loss = self._step(inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._done += 1
        return loss

    def _capture(self, inputs: Inputs) -> None:
        self._inputs = tuple(t.clone() for t in inputs)
        self._before()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._loss = self._step(self._inputs)
        except RuntimeError as error:
            self._given_up = True
            torch.cuda.synchronize()
            _log.warning("training goes on without a CUDA graph, more slowly: %s", str(error).splitlines()[0])
            return
        self._graph = graph
