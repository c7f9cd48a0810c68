"""Writes each cross-fusion depth of an exported POSTER as one ONNX node that carries its own definition.

The node is ``poster_edge::CrossFusionDepth``; the file holds a FunctionProto with the standard
operators it stands for, so that onnxruntime and TensorRT-RTX run the file without knowing the node,
and a TensorRT plugin of that name and domain can take its place.

Inputs: the levels (B, T, D_i), widest first, then the weights in the order of the function's inputs,
named after the module that reads them ("block_l.attn_img.kv.weight_t" is (in, out)).  Outputs: the
levels again.  Attribute: heads.  Source: Zheng et al., "POSTER" (2022), eq. 3-5 and Fig. 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from poster_edge.errors import PosterEdgeError
from poster_edge.export.graph import Graph
from poster_edge.kernels.plugin.names import NAME, NAMESPACE

DOMAIN, OP = NAMESPACE, NAME
_SCOPES = "pkg.torch.onnx.name_scopes"
_ENTRY = re.compile(r"(?P<stack>.*\bblocks)\.(?P<depth>\d+)\.block_(?P<level>[lmsx])\.norm1")
_LEVELS = "lmsx"
#: Operator -> what its inputs are, where they are weights.
_WEIGHTS = {
    "MatMul": ("weight_t", "weight_t"),
    "Add": ("bias", "bias"),
    "LayerNormalization": ("", "weight", "bias"),
    "Conv": ("", "weight", "bias"),
    "ConvTranspose": ("", "weight", "bias"),
}


@dataclass
class _Depth:
    """The part of the graph that one depth is.

    Attributes:
        inputs: its levels, widest first.
        outputs: the levels it hands on; of the last depth only the widest.
        nodes: its nodes in graph order.
        weights: initialisers in the order of their use; one that is read twice is listed twice.
        names: what each weight is called in the function.
    """

    inputs: list[str]
    outputs: list[str]
    nodes: list[onnx.NodeProto]
    weights: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def fuse_depths(model: onnx.ModelProto, *, heads: int) -> onnx.ModelProto:
    """A copy of the model in which each depth is one node.

    Args:
        model: as torch exported it, its nodes still with the names of their modules.
        heads: H, written to the nodes for a plugin.

    Raises:
        PosterEdgeError: no depths in the graph, or depths that differ from one another.
    """
    graph = Graph(model)
    depths = [_extract(graph, *edge) for edge in _edges(graph)]
    first = depths[0]
    for index, depth in enumerate(depths):
        _collect_weights(graph, depth)
        _complete(graph, first, depth, index)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    gone = {n.name: i for i, d in enumerate(depths) for n in d.nodes}
    last = {d.nodes[-1].name: i for i, d in enumerate(depths)}
    del result.graph.node[:]
    for node in model.graph.node:
        if node.name in last:
            result.graph.node.append(_call(depths[last[node.name]], last[node.name], heads))
        elif node.name not in gone:
            result.graph.node.append(node)
    inner = {o for d in depths for n in d.nodes for o in n.output} - {o for d in depths for o in d.outputs}
    values = [v for v in result.graph.value_info if v.name not in inner]
    del result.graph.value_info[:]
    result.graph.value_info.extend(values)
    result.functions.append(_function(graph, first, model))
    result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return result


def _scope(node: onnx.NodeProto) -> str:
    """The module that a node belongs to: "pyramid_fuse.blocks.0.block_l.norm1"."""
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "")
    names = re.findall(r"'([^']*)'", scopes)
    # The last one is the operator's own.
    return names[-2] if len(names) > 1 else ""


def _edges(graph: Graph) -> list[tuple[list[str], list[str]]]:
    """Levels into and out of each depth."""
    entries: dict[int, dict[str, str]] = {}
    norms = {_scope(n): n for n in graph.nodes if n.op_type == "LayerNormalization"}
    stack = ""
    for scope, node in norms.items():
        if match := _ENTRY.fullmatch(scope):
            entries.setdefault(int(match["depth"]), {})[match["level"]] = node.input[0]
            stack = match["stack"].removesuffix("blocks")
    final = norms.get(f"{stack}norm")
    if not entries or final is None or sorted(entries) != list(range(len(entries))):
        raise PosterEdgeError("the graph has no cross-fusion depths that --fused-op could write as nodes")
    levels = [[e[name] for name in _LEVELS if name in e] for _, e in sorted(entries.items())]
    return list(zip(levels, [*levels[1:], [final.input[0]]], strict=True))


def _extract(graph: Graph, inputs: list[str], outputs: list[str]) -> _Depth:
    """All nodes between the levels that go in and those that come out."""
    found: set[str] = set()
    open_tensors = list(outputs)
    while open_tensors:
        name = open_tensors.pop()
        if name in inputs or name in graph.initializers or not name:
            continue
        node = graph.producer.get(name)
        if node is None:
            raise PosterEdgeError(f"a cross-fusion depth reads '{name}', which is none of its levels")
        if node.name not in found:
            found.add(node.name)
            open_tensors.extend(node.input)
    nodes = [n for n in graph.nodes if n.name in found]
    for tensor in (o for n in nodes for o in n.output if o not in outputs):
        outside = [c.name for c in graph.consumers.get(tensor, []) if c.name not in found]
        if outside:
            raise PosterEdgeError(f"'{tensor}' inside a cross-fusion depth is read outside it, by {outside[0]}")
    return _Depth(inputs, outputs, nodes)


def _is_weight(graph: Graph, name: str) -> bool:
    """A weight varies from depth to depth; integers and single numbers are part of the definition."""
    tensor = graph.initializers.get(name)
    return tensor is not None and tensor.data_type != onnx.TensorProto.INT64 and len(tensor.dims) > 0


def _collect_weights(graph: Graph, depth: _Depth) -> None:
    for node in depth.nodes:
        for i, name in enumerate(node.input):
            if _is_weight(graph, name):
                scope = re.sub(r".*\bblocks\.\d+\.", "", _scope(node))
                kind = _WEIGHTS.get(node.op_type, ())
                if not scope or i >= len(kind):
                    raise PosterEdgeError(f"cannot tell what weight '{name}' of {node.op_type} {node.name} is")
                depth.weights.append(name)
                depth.names.append(f"{scope}.{kind[i]}")


def _complete(graph: Graph, first: _Depth, depth: _Depth, index: int) -> None:
    """Check that a depth is built like the first, and find the outputs that nobody reads."""

    def differ(what: str) -> PosterEdgeError:
        return PosterEdgeError(f"depth {index} of the graph is built differently from depth 0: {what}")

    if len(depth.nodes) != len(first.nodes):
        raise differ(f"{len(depth.nodes)} nodes, not {len(first.nodes)}")
    same = dict(zip(first.inputs, depth.inputs, strict=True))
    for ours, theirs in zip(first.nodes, depth.nodes, strict=True):
        if ours.op_type != theirs.op_type or _attributes(ours) != _attributes(theirs):
            raise differ(f"{theirs.name} ({theirs.op_type}) stands where {ours.name} ({ours.op_type}) was")
        if len(ours.input) != len(theirs.input) or len(ours.output) != len(theirs.output):
            raise differ(f"{theirs.name} has other inputs than {ours.name}")
        for a, b in zip(ours.input, theirs.input, strict=True):
            if not _corresponds(graph, a, b, same):
                raise differ(f"{theirs.name} reads '{b}' where {ours.name} reads '{a}'")
        same.update(zip(ours.output, theirs.output, strict=True))
    expected = [same[name] for name in first.outputs]
    if depth.outputs != expected[: len(depth.outputs)]:
        raise differ("its levels come from other nodes")
    depth.outputs = expected


def _corresponds(graph: Graph, a: str, b: str, same: dict[str, str]) -> bool:
    if _is_weight(graph, a):
        return _is_weight(graph, b) and graph.initializers[a].dims == graph.initializers[b].dims
    if a in graph.initializers:
        return b in graph.initializers and np.array_equal(graph.array(a), graph.array(b))
    return same.get(a, a) == b


def _attributes(node: onnx.NodeProto) -> list[bytes]:
    return sorted(a.SerializeToString() for a in node.attribute)


def _call(depth: _Depth, index: int, heads: int) -> onnx.NodeProto:
    inputs = [*depth.inputs, *depth.weights]
    return helper.make_node(OP, inputs, depth.outputs, name=f"cross_fusion_{index}", domain=DOMAIN, heads=heads)


def _function(graph: Graph, depth: _Depth, model: onnx.ModelProto) -> onnx.FunctionProto:
    """The definition, spelled out from the first depth's nodes."""
    if len(set(depth.names)) != len(depth.names):
        twice = next(n for n in depth.names if depth.names.count(n) > 1)
        raise PosterEdgeError(f"two weights of a cross-fusion depth would be called {twice}")
    rename = dict(zip(depth.inputs, (f"level_{_LEVELS[i]}" for i in range(len(depth.inputs))), strict=True))
    outputs = dict(zip(depth.outputs, (f"out_{_LEVELS[i]}" for i in range(len(depth.outputs))), strict=True))
    names = iter(depth.names)
    body: list[onnx.NodeProto] = []
    constants: dict[str, onnx.NodeProto] = {}
    for node in depth.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.metadata_props[:]
        copy.doc_string = ""
        for i, name in enumerate(node.input):
            if _is_weight(graph, name):
                copy.input[i] = next(names)
            elif name in graph.initializers:
                constants.setdefault(name, _constant(graph, name))
            else:
                copy.input[i] = rename.get(name, outputs.get(name, name))
        copy.output[:] = [outputs.get(o, o) for o in node.output]
        body.append(copy)
    opset = [o for o in model.opset_import if o.domain == ""]
    return helper.make_function(
        DOMAIN,
        OP,
        [*rename.values(), *depth.names],
        list(outputs.values()),
        [*constants.values(), *body],
        opset,
        attributes=["heads"],
    )


def _constant(graph: Graph, name: str) -> onnx.NodeProto:
    tensor = onnx.TensorProto()
    tensor.CopyFrom(graph.initializers[name])
    return helper.make_node("Constant", [], [name], name=f"constant_{name}", value=tensor)
