"""A view of an ONNX graph for rewriting: who makes and who reads each tensor, and of what type it is."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from poster_edge.errors import PosterEdgeError


class Graph:
    """Lookups over one model, made once; stale after the model has been changed.

    Args:
        model: as exported; its nodes are in topological order and named.

    Raises:
        PosterEdgeError: nodes without a name of their own, or with subgraphs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.initializers = {t.name: t for t in model.graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.consumers.setdefault(name, []).append(node)
        self.outputs = [o.name for o in model.graph.output]
        if len({n.name for n in self.nodes}) != len(self.nodes) or any(not n.name for n in self.nodes):
            raise PosterEdgeError("the graph has nodes without a name of their own; export it with poster-edge export")
        if any(
            a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for n in self.nodes for a in n.attribute
        ):
            raise PosterEdgeError("graphs with branches or loops inside cannot be converted to another precision")

    def array(self, name: str) -> NDArray:
        """Content of an initialiser."""
        return numpy_helper.to_array(self.initializers[name])

    def float_tensors(self) -> list[str]:
        """Names of all float32 tensors that nodes make, in order.

        Raises:
            PosterEdgeError: ONNX cannot infer the types.
        """
        types = tensor_types(self.model)
        return [n for node in self.nodes for n in node.output if types.get(n) == TensorProto.FLOAT]


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of a model, inferred afresh.

    Raises:
        PosterEdgeError: ONNX cannot infer them.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph
    except Exception as error:
        raise PosterEdgeError(f"ONNX cannot infer the graph's types: {str(error).splitlines()[0]}") from error
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {v.name: v.type.tensor_type.elem_type for v in values}
    return types | {t.name: t.data_type for t in inferred.initializer}


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy whose outputs are these float32 tensors, to look inside."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    return copy


def rebuild(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], initializers: Iterable[TensorProto]
) -> onnx.ModelProto:
    """A model with the same inputs, outputs and opset, other nodes, and those initialisers that are read.

    Raises:
        PosterEdgeError: the result fails ONNX's checker.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for part in (result.graph.node, result.graph.initializer, result.graph.value_info):
        del part[:]
    result.graph.node.extend(nodes)
    used = {name for node in result.graph.node for name in node.input} | {o.name for o in result.graph.output}
    result.graph.initializer.extend(t for t in initializers if t.name in used)
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:
        raise PosterEdgeError(f"the rewritten graph fails ONNX's checker: {str(error).splitlines()[0]}") from error
    return result


def constant(name: str, values: NDArray) -> TensorProto:
    """An initialiser."""
    return numpy_helper.from_array(np.ascontiguousarray(values), name)
