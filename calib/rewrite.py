"""Exact rewrites of a float32 graph before it is quantised: operators that the runtimes are slow at, said otherwise.

Each one computes the same function.  Tensors that the graph had keep their names, and so their ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx
from onnx import TensorProto, helper

from poster_edge.export.graph import Graph, constant, rebuild

#: Further than any axis is long; Slice ends there.
_END = np.iinfo(np.int32).max
_Rewrite = Callable[[Graph, onnx.NodeProto, dict[str, TensorProto]], list[onnx.NodeProto]]


def rewrite(model: onnx.ModelProto, *, placement: str, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy that computes the same with operators that INT8 models run faster on.

    Args:
        model: float32, as exported.
        placement: see :func:`poster_edge.calib.qdq.quantise`; each has rewrites of its own.
        keep: names of nodes that stay as they are.
    """
    for_onnxruntime: dict[str, _Rewrite] = {"PRelu": _prelu, "MaxPool": _subsampling}
    rules = for_onnxruntime if placement == "inputs-outputs" else {"ConvTranspose": _upsampling}
    graph = Graph(model)
    initializers = dict(graph.initializers)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        rule = rules.get(node.op_type) if node.name not in keep else None
        nodes += rule(graph, node, initializers) if rule else [node]
    return rebuild(model, nodes, initializers.values())


def _upsampling(graph: Graph, node: onnx.NodeProto, initializers: dict[str, TensorProto]) -> list[onnx.NodeProto]:
    """A 1-D transposed convolution whose windows do not overlap is a matrix product (the token mix, upwards).

    OpenVINO has no fast kernel for it: a tenth of full POSTER's time, six times the product's.  onnxruntime has, and
    its Transpose is slow here: three times as slow at eight faces.
    """
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weight = graph.initializers.get(node.input[1])
    if weight is None or len(weight.dims) != 3 or not _plain(settings, weight.dims[2]):
        return [node]
    name, output = node.name, node.output[0]
    inside, outside, kernel = weight.dims
    # Cin x Cout x K -> 1 x (Cout K) x Cin
    values = graph.array(node.input[1]).transpose(1, 2, 0).reshape(1, outside * kernel, inside)
    biased = len(node.input) > 2
    constants = {
        "product": values,
        "split": np.array([0, outside, kernel, -1], np.int64),
        "merge": np.array([0, outside, -1], np.int64),
    }
    if biased:
        constants["bias"] = graph.array(node.input[2]).reshape(1, outside, 1)
    initializers.update({f"{name}_{key}": constant(f"{name}_{key}", array) for key, array in constants.items()})
    merged = f"{output}_merged" if biased else output
    split, turned = f"{output}_split", f"{output}_turned"
    # B x Cin x L -> B x (Cout K) x L -> B x Cout x K x L -> B x Cout x L x K -> B x Cout x (L K)
    nodes = [
        helper.make_node("MatMul", [f"{name}_product", node.input[0]], [f"{output}_product"], name=name),
        helper.make_node("Reshape", [f"{output}_product", f"{name}_split"], [split], name=f"{name}_split"),
        helper.make_node("Transpose", [split], [turned], name=f"{name}_turn", perm=[0, 1, 3, 2]),
        helper.make_node("Reshape", [turned, f"{name}_merge"], [merged], name=f"{name}_merge"),
    ]
    if biased:
        nodes.append(helper.make_node("Add", [merged, f"{name}_bias"], [output], name=f"{name}_bias"))
    return nodes


def _plain(settings: dict[str, object], kernel: int) -> bool:
    """Whether a transposed convolution has a stride of its kernel's length and nothing else."""
    usual = {"group": 1, "dilations": [1], "pads": [0, 0], "output_padding": [0], "auto_pad": b"NOTSET"}
    return settings.get("strides") == [kernel] and all(settings.get(k, v) == v for k, v in usual.items())


def _prelu(graph: Graph, node: onnx.NodeProto, initializers: dict[str, TensorProto]) -> list[onnx.NodeProto]:
    """max(x, a·x) where every slope is at most 1, min(x, a·x) where every slope is at least 1.

    onnxruntime's PRelu decides value by value; Mul and Max take a vector at a time, seven times as fast.
    """
    if node.input[1] not in graph.initializers:
        return [node]
    slopes = graph.array(node.input[1])
    if not ((slopes <= 1).all() or (slopes >= 1).all()):
        return [node]
    data, output = node.input[0], node.output[0]
    scaled = f"{output}_scaled"
    return [
        helper.make_node("Mul", [data, node.input[1]], [scaled], name=f"{node.name}_scale"),
        helper.make_node("Max" if (slopes <= 1).all() else "Min", [data, scaled], [output], name=node.name),
    ]


def _subsampling(graph: Graph, node: onnx.NodeProto, initializers: dict[str, TensorProto]) -> list[onnx.NodeProto]:
    """A pooling of single points only leaves points out; onnxruntime would change the layout for it and back."""
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if set(settings["kernel_shape"]) != {1} or any(settings.get("pads", ())) or len(node.output) > 1:
        return [node]
    name, axes = node.name, len(settings["kernel_shape"])
    constants = {
        "starts": [0] * axes,
        "ends": [_END] * axes,
        "axes": [2 + i for i in range(axes)],
        "steps": settings.get("strides", [1] * axes),
    }
    initializers.update({f"{name}_{k}": constant(f"{name}_{k}", np.array(v, np.int64)) for k, v in constants.items()})
    return [helper.make_node("Slice", [node.input[0], *(f"{name}_{k}" for k in constants)], node.output, name=name)]
