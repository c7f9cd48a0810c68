"""Bounds from below on the time of a layer and of a model: the roofline.

Williams, Waterman, Patterson, "Roofline: An Insightful Visual Performance Model for Multicore Architectures"
(2009): a layer takes at least its operations over the peak rate, and at least its bytes over the bandwidth.

A model has three bounds, by what is assumed to stay on the chip:

``ideal``
    everything between input and output: weights, input and output cross the memory bus once.
``fused``
    everything but the images between convolutions: each convolution with what is fused behind it reads its weights
    and input and writes its output, all the rest is one kernel that reads its weights.  That is what POSTER's
    fused kernels aim at.
``layers``
    nothing between layers: each layer, with the element-wise nodes that every runtime fuses behind it, reads its
    weights and inputs and writes its outputs once.

Launches, synchronisation and all element-wise arithmetic are left out, so no bound is too high.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from poster_edge.bench.devices import Device
from poster_edge.bench.layers_graph import Cost, Graph

#: Element-wise nodes that runtimes compute while a product's result is still in registers.
_EPILOGUES = frozenset(
    {"Add", "Cast", "Clip", "Div", "Gelu", "LeakyRelu", "Max", "Min", "Mul", "PRelu", "Relu", "Sigmoid", "Sub"}
)
_QUANTISES = frozenset({"QuantizeLinear", "DequantizeLinear"})
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
#: Bits of a value in each precision.
BITS = {"fp32": 32, "fp16": 16, "int8": 8}


@dataclass(frozen=True)
class Bounds:
    """Least times of a whole model in s, each under its assumption; see the module."""

    ideal: float
    fused: float
    layers: float


def floor(cost: Cost, device: Device) -> float:
    """Least time of a group of nodes on a device, in s."""
    return max(compute_time(cost, device), cost.bytes / (1e9 * device.bandwidth.value))


def compute_time(cost: Cost, device: Device) -> float:
    """Least time of the products alone, in s."""
    return sum(flops / device.rate(precision) for precision, flops in cost.flops.items())


def memory_bound(cost: Cost, device: Device) -> bool:
    """Whether the bytes bound the time, not the operations."""
    return cost.bytes / (1e9 * device.bandwidth.value) >= compute_time(cost, device)


def bounds(graph: Graph, device: Device) -> Bounds:
    """The three bounds of a model on a device."""
    groups = fuse_epilogues(graph)
    images = [g for g in groups if _is_image_convolution(graph, g[0])]
    stored = {i for g in images for i in g}
    rest = graph.cost(i for i in range(len(graph.nodes)) if i not in stored)
    weights_only = replace(rest, inputs=0, outputs=0)
    return Bounds(
        ideal=floor(graph.total(), device),
        fused=total_floor(graph, images, device) + floor(weights_only, device),
        layers=total_floor(graph, groups, device),
    )


def total_floor(graph: Graph, groups: Iterable[Iterable[int]], device: Device) -> float:
    """Sum of the floors of groups of nodes that run one after the other, in s."""
    return sum(floor(graph.cost(g), device) for g in groups)


def fuse_epilogues(graph: Graph) -> list[list[int]]:
    """Each node with the element-wise nodes behind it that nobody else reads past.

    Returns:
        Indices of each group, the node that leads it first.
    """
    leader: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        above = [p for t in node.inputs if (p := graph.producer.get(t)) is not None and _joins(graph, node.op, t)]
        leader[i] = max((leader[p] for p in above), default=i)
    groups: dict[int, list[int]] = {}
    for i in range(len(graph.nodes)):
        groups.setdefault(leader[i], []).append(i)
    return list(groups.values())


def _joins(graph: Graph, op: str, tensor: str) -> bool:
    if op in _VIEWS or op in _QUANTISES:
        return True
    return op in _EPILOGUES and len(graph.readers.get(graph.stored(tensor), [])) == 1


def _is_image_convolution(graph: Graph, node: int) -> bool:
    """Whether a node is a convolution over an image: (B, channels, height, width)."""
    found = graph.nodes[node]
    return found.op == "Conv" and len(graph.tensors[found.inputs[0]].shape) == 4


def at_precision(graph: Graph, precision: str) -> Graph:
    """The graph as if all of it were computed and stored in one precision; what is narrower already stays.

    Args:
        graph: in any precision.
        precision: "fp32", "fp16" or "int8".
    """
    bits = BITS[precision]
    tensors = {name: replace(t, bits=min(t.bits, bits)) if t.floating else t for name, t in graph.tensors.items()}
    order = list(BITS)
    nodes = tuple(
        replace(n, precision=max(n.precision, precision, key=order.index)) if n.precision in order else n
        for n in graph.nodes
    )
    return replace(graph, tensors=tensors, nodes=nodes)
