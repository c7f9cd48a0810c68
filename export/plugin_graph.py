"""Rewrites a graph with one node for each cross-fusion depth so that TensorRT hands all depths to our plugin.

The graph must come from :mod:`poster_edge.export.cross_fusion_op`.  All its depths become one node
``poster_edge::CrossFusionDepth`` with the weights packed as the fused kernels read them; the definition in the
file is dropped, since it would win over a plugin and JetPack's parser does not know such definitions.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from poster_edge.errors import PosterEdgeError, UsageError
from poster_edge.export.cross_fusion_op import DOMAIN, OP
from poster_edge.export.graph import Graph
from poster_edge.kernels.pack import PackedDepth, pack
from poster_edge.kernels.plugin.names import NAMESPACE, PLUGIN_PRECISIONS, VERSION
from poster_edge.kernels.plugin.weights import join_weights, shape_attribute

_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
NODE = "cross_fusion"


def plugin_graph(model: onnx.ModelProto, *, precision: str = "fp16") -> onnx.ModelProto:
    """A copy of the model in which one node of the plugin stands for all cross-fusion depths.

    Args:
        model: float32, as ``export --fused-op`` writes it.  What is outside the depths stays as it is.
        precision: of the plugin's kernels, a key of :data:`~poster_edge.kernels.plugin.names.PLUGIN_PRECISIONS`.

    Raises:
        UsageError: unknown precision.
        PosterEdgeError: the model has no depths as nodes, or they are not one chain.
    """
    if precision not in PLUGIN_PRECISIONS:
        raise UsageError(f"precision '{precision}': expected one of {', '.join(PLUGIN_PRECISIONS)}")
    graph = Graph(model)
    nodes = [n for n in graph.nodes if (n.domain, n.op_type) == (DOMAIN, OP)]
    if not nodes or not model.functions:
        raise PosterEdgeError("the graph has no cross-fusion depths as nodes: export it with --fused-op")
    function = next(f for f in model.functions if (f.domain, f.name) == (DOMAIN, OP))
    names = [n for n in function.input if not n.startswith("level_")]
    count = len(function.input) - len(names)
    _check_chain(graph, nodes, count)
    depths = [_pack(graph, node, names, count, precision) for node in nodes]
    weights, offsets = join_weights(depths)
    replacement = _replacement(nodes, depths[0], offsets, count, _TYPES[PLUGIN_PRECISIONS[precision]])
    return _assemble(model, nodes, replacement, weights)


def _check_chain(graph: Graph, nodes: list[onnx.NodeProto], count: int) -> None:
    for before, after in itertools.pairwise(nodes):
        if list(before.output) != list(after.input[:count]):
            raise PosterEdgeError(f"{after.name} does not follow {before.name}: the depths are not one chain")
        readers = {c.name for name in before.output for c in graph.consumers.get(name, [])}
        if readers != {after.name} or set(before.output) & set(graph.outputs):
            raise PosterEdgeError(f"the levels of {before.name} are read by others than {after.name}")
    unread = [name for name in nodes[-1].output[1:] if name in graph.consumers or name in graph.outputs]
    if unread:
        raise PosterEdgeError(f"'{unread[0]}' of the last depth is read; the plugin gives the widest level only")
    # The plugin gives the first token only: nothing else may be looked at.
    for reader in graph.consumers.get(nodes[-1].output[0], []):
        if reader.op_type != "LayerNormalization" or not _takes_first_token(graph, reader.output[0]):
            raise PosterEdgeError(f"{reader.name} reads more than the first token of the last depth")


def _takes_first_token(graph: Graph, name: str) -> bool:
    """Whether all readers of a tensor (B, T, D) take ``[:, 0]`` of it."""
    readers = graph.consumers.get(name, [])
    return bool(readers) and name not in graph.outputs and all(_is_first(graph, r) for r in readers)


def _is_first(graph: Graph, node: onnx.NodeProto) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if node.op_type != "Gather" or axis != 1 or node.input[1] not in graph.initializers:
        return False
    return not graph.array(node.input[1]).any()


def _pack(graph: Graph, node: onnx.NodeProto, names: list[str], count: int, precision: str) -> PackedDepth:
    """One depth's weights, named as in POSTER's state dict again."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in zip(names, node.input[count:], strict=True):
        values = torch.from_numpy(np.array(graph.array(tensor)))
        state[name.removesuffix("_t")] = values.T if name.endswith("_t") else values
    for name in [n for n in state if n.endswith(".weight")]:
        # The exporter leaves a bias out that is 0, as in a model that was not trained.
        bias = name.removesuffix("weight") + "bias"
        state.setdefault(bias, torch.zeros(len(state[name])))
    heads = next(a.i for a in node.attribute if a.name == "heads")
    packed = pack(state, heads=heads, precision=precision)
    if reason := packed.shape.unsupported():
        raise PosterEdgeError(f"the fused kernels do not serve {reason}")
    return packed


def _replacement(
    nodes: list[onnx.NodeProto], packed: PackedDepth, offsets: list[int], count: int, kind: int
) -> list[onnx.NodeProto]:
    """Casts, the plugin's node, and what gives its result the place of the last depth's widest level."""
    inputs, casts = list(nodes[0].input[:count]), []
    if kind != TensorProto.FLOAT:
        casts = [
            helper.make_node("Cast", [name], [f"{NODE}_level_{i}"], name=f"{NODE}_cast_{i}", to=kind)
            for i, name in enumerate(inputs)
        ]
        inputs = [c.output[0] for c in casts]
    plugin = helper.make_node(
        OP,
        [*inputs, f"{NODE}_weights"],
        [f"{NODE}_first"],
        name=NODE,
        domain=DOMAIN,
        shape=shape_attribute(packed.shape),
        precision=packed.precision,
        offsets=offsets,
        plugin_namespace=NAMESPACE,
        plugin_version=VERSION,
    )
    # Also where it changes nothing: a checker knows the type of what is no plugin's.
    back = helper.make_node("Cast", [f"{NODE}_first"], [f"{NODE}_wide"], name=f"{NODE}_back", to=TensorProto.FLOAT)
    # B x D0 -> B x 1 x D0: [:, 0] after it finds the first token
    out = nodes[-1].output[0]
    place = helper.make_node("Unsqueeze", [f"{NODE}_wide", f"{NODE}_axis"], [out], name=f"{NODE}_place")
    return [*casts, plugin, back, place]


def _assemble(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], replacement: list[onnx.NodeProto], weights: NDArray[np.int32]
) -> onnx.ModelProto:
    gone = {n.name for n in nodes}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.functions[:]
    # Shapes after the node are other ones now.
    del result.graph.value_info[:]
    del result.graph.node[:]
    for node in model.graph.node:
        if node.name == nodes[-1].name:
            result.graph.node.extend(replacement)
        elif node.name not in gone:
            result.graph.node.append(node)
    read = {name for node in result.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in read]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    result.graph.initializer.append(numpy_helper.from_array(weights, f"{NODE}_weights"))
    result.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), f"{NODE}_axis"))
    return result
