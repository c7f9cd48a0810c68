"""Which nodes of an ONNX graph each layer that a runtime executes stands for.

Runtimes fuse, rename and drop nodes.  A layer claims the nodes whose names it kept and those that make a tensor it
still makes.  What nobody claims went into a neighbour: a product into the layer that its result goes to,
anything else into the layer that its input comes from.  So every node belongs to exactly one layer, and the
operations of all layers add up to those of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from poster_edge.bench.layers_graph import Cost, Graph


@dataclass(frozen=True)
class Trace:
    """What a runtime's profile says of one layer.

    Attributes:
        name: as the runtime calls it.
        kind: type of what was executed.
        ms: time of each run, in ms.
        names: names of graph nodes that it may stand for.
        tensors: tensors of the graph that it may make.
        feeds: nodes that its result may go to; for a product that claims nothing by name.
        moved: bytes it read and wrote, where the profile tells and it stands for no node.
        cost: what the profile itself tells of the layer, where it has no names in common with the graph.
    """

    name: str
    kind: str
    ms: tuple[float, ...]
    names: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()
    moved: int | None = None
    cost: Cost | None = None


def assign(graph: Graph, traces: Sequence[Trace]) -> list[list[int]]:
    """Nodes of each layer, as indices into the graph.

    Args:
        graph: the model as it was given to the runtime.
        traces: the layers in the order of execution.
    """
    owner = _claims(graph, traces)
    _claim_feeders(graph, traces, owner)
    _place_products(graph, owner)
    _place_rest(graph, owner)
    groups: list[list[int]] = [[] for _ in traces]
    for node, layer in owner.items():
        groups[layer].append(node)
    return [sorted(g) for g in groups]


def _claims(graph: Graph, traces: Sequence[Trace]) -> dict[int, int]:
    """Node -> layer by names, then by tensors; the first claim holds."""
    names = {n.name: i for i, n in enumerate(graph.nodes) if n.name}
    owner: dict[int, int] = {}
    for layer, trace in enumerate(traces):
        for name in trace.names:
            if name in names:
                owner.setdefault(names[name], layer)
    for layer, trace in enumerate(traces):
        for tensor in trace.tensors:
            if tensor in graph.producer:
                owner.setdefault(graph.producer[tensor], layer)
    return owner


def _claim_feeders(graph: Graph, traces: Sequence[Trace], owner: dict[int, int]) -> None:
    """A layer without a name gets the unclaimed product whose result the next layer takes."""
    names = {n.name: i for i, n in enumerate(graph.nodes) if n.name}
    claimed = set(owner.values())
    for layer, trace in enumerate(traces):
        for start in (names[f] for f in trace.feeds if layer not in claimed and f in names):
            product = _product_before(graph, start, owner)
            if product is not None:
                owner[product] = layer
                break


def _product_before(graph: Graph, start: int, owner: dict[int, int]) -> int | None:
    """The nearest unclaimed product above a node, through unclaimed nodes only."""
    queue = [start]
    for i in queue:
        for tensor in graph.nodes[i].inputs:
            above = graph.producer.get(tensor)
            if above is None or above in owner or above in queue:
                continue
            if graph.nodes[above].flops:
                return above
            queue.append(above)
    return None


def _consumers(graph: Graph) -> list[list[int]]:
    """Of each node those that read one of its outputs."""
    found: list[list[int]] = [[] for _ in graph.nodes]
    for i, node in enumerate(graph.nodes):
        for tensor in node.inputs:
            if tensor in graph.producer:
                found[graph.producer[tensor]].append(i)
    return found


def _place_products(graph: Graph, owner: dict[int, int]) -> None:
    """Products that nobody claims go to the first layer that their results reach."""
    consumers = _consumers(graph)
    reached: dict[int, int] = {}
    for i in reversed(range(len(graph.nodes))):
        below = [owner.get(c, reached.get(c)) for c in consumers[i]]
        known = [layer for layer in below if layer is not None]
        if known:
            reached[i] = min(known)
        if i not in owner and graph.nodes[i].flops and i in reached:
            owner[i] = reached[i]


def _place_rest(graph: Graph, owner: dict[int, int]) -> None:
    """The others go to the last layer that they read from; what stands before all layers, to the first it reaches."""
    for i, node in enumerate(graph.nodes):
        if i not in owner:
            above = [owner[p] for t in node.inputs if (p := graph.producer.get(t)) in owner]
            if above:
                owner[i] = max(above)
    consumers = _consumers(graph)
    for i in reversed(range(len(graph.nodes))):
        if i not in owner:
            below = [owner[c] for c in consumers[i] if c in owner]
            if below:
                owner[i] = min(below)
