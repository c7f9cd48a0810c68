"""Layers of a model as a runtime executes them: time, operations, bytes, and their share of a roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.bench.devices import Device
from poster_edge.bench.layers_graph import Cost, Graph, read_graph
from poster_edge.bench.layers_join import Trace, assign
from poster_edge.bench.roofline import floor, memory_bound
from poster_edge.errors import UnavailableError
from poster_edge.runtime.runner import Runner


@dataclass(frozen=True)
class Layer:
    """One layer that was executed.

    Attributes:
        name: as the runtime calls it.
        kind: type of what was executed.
        nodes: names of the graph's nodes that it stands for; empty for copies that the runtime added.
        members: their indices.
        ms: median time, in ms.
        cost: what it computes and moves.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    members: tuple[int, ...]
    ms: float
    cost: Cost

    @property
    def gflops(self) -> float:
        """10^9 operations of products a second that it reached."""
        return self.cost.total_flops / self.ms / 1e6 if self.ms else 0.0

    @property
    def gbytes(self) -> float:
        """GB/s that it reached, with weights, inputs and outputs counted once."""
        return self.cost.bytes / self.ms / 1e6 if self.ms else 0.0

    def share(self, device: Device) -> float:
        """Its floor on a device over its time: 1 is the roofline."""
        return 1e3 * floor(self.cost, device) / self.ms if self.ms else 0.0

    def bound(self, device: Device) -> str:
        """What bounds it on a device: "memory" or "compute"."""
        return "memory" if memory_bound(self.cost, device) else "compute"


@dataclass(frozen=True)
class LayerProfile:
    """All layers of one model in one runtime.

    Attributes:
        runtime: what ran.
        file: which of the bundle's files.
        batch: B.
        runs: inferences that the medians are taken over.
        layers: in the order of execution.
        profiled_ms: median of a whole inference while it was profiled.
        notes: what could not be told.
    """

    runtime: str
    file: str
    batch: int
    runs: int
    layers: tuple[Layer, ...]
    profiled_ms: float
    notes: tuple[str, ...]

    @property
    def sum_ms(self) -> float:
        """Sum of the layers' medians."""
        return sum(layer.ms for layer in self.layers)

    def slowest(self, count: int | None = None) -> list[Layer]:
        """Layers with the longest times, longest first."""
        return sorted(self.layers, key=lambda layer: -layer.ms)[:count]


def profile_layers(
    runner: Runner, data: bytes | None, feed: Mapping[str, NDArray[Any]], *, runs: int, warmup: int = 3
) -> LayerProfile:
    """Execute a model under its runtime's own profiler and join what it tells with the graph's costs.

    Args:
        runner: not entered yet; of onnxruntime, OpenVINO, TensorRT or torch.
        data: its ONNX file; None for torch, whose operators have costs of their own.
        feed: input name -> array (B, ...).
        runs: timed inferences.
        warmup: inferences before.

    Raises:
        UnavailableError: the package onnx is missing, or the runtime has no profiler that is known here.
    """
    batch = len(next(iter(feed.values())))
    graph = None if data is None else read_graph(data, batch=batch)
    traces, totals = _trace(runner, feed, runs, warmup)
    layers = _own(traces) if graph is None else joined(graph, traces)
    return LayerProfile(
        runtime=runner.description,
        file=Path(runner.file).name,
        batch=batch,
        runs=runs,
        layers=tuple(layers),
        profiled_ms=float(np.median(totals)),
        notes=graph.notes if graph else (),
    )


def joined(graph: Graph, traces: Sequence[Trace]) -> list[Layer]:
    """Layers with the costs of the nodes that they stand for."""
    layers = []
    for trace, members in zip(traces, assign(graph, traces), strict=True):
        cost = graph.cost(members) if members else Cost({}, 0, 0, trace.moved or 0, 0)
        nodes = tuple(graph.nodes[i].name for i in members)
        layers.append(Layer(trace.name, trace.kind, nodes, tuple(members), _median(trace), cost))
    return layers


def _own(traces: Sequence[Trace]) -> list[Layer]:
    """Layers whose costs their profile tells itself."""
    return [Layer(t.name, t.kind, (), (), _median(t), t.cost or Cost({}, 0, 0, 0, 0)) for t in traces]


def _median(trace: Trace) -> float:
    return float(np.median(trace.ms)) if trace.ms else 0.0


def _trace(runner: Any, feed: Mapping[str, NDArray[Any]], runs: int, warmup: int) -> tuple[list[Trace], list[float]]:
    """The runtime's own profile; each is imported only with its runtime."""
    kind = type(runner).__name__
    if kind == "OrtRunner":
        from poster_edge.bench.layers_ort import trace_onnxruntime

        return trace_onnxruntime(runner, feed, runs=runs, warmup=warmup)
    if kind == "OpenVinoRunner":
        from poster_edge.bench.layers_openvino import trace_openvino

        return trace_openvino(runner, feed, runs=runs, warmup=warmup)
    if kind == "TensorRtRunner":
        from poster_edge.bench.layers_trt import trace_tensorrt

        return trace_tensorrt(runner, feed, runs=runs, warmup=warmup)
    if kind == "TorchRunner":
        from poster_edge.bench.layers_torch import trace_torch

        return trace_torch(runner, feed, runs=runs, warmup=warmup)
    raise UnavailableError(f"{kind} has no profiler of its layers; use --runtime onnxruntime, openvino or torch")
