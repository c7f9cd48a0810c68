"""What an ONNX graph computes in, layer by layer, and how many bytes its weights take; needs ``onnx``, not TensorRT."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from poster_edge.optional import require

if TYPE_CHECKING:
    import onnx

#: Operator that does the work -> what we call it, as for engines.
_COMPUTE = {
    "Conv": "convolution",
    "ConvTranspose": "deconvolution",
    "MatMul": "matrix product",
    "Gemm": "matrix product",
}
_NAMES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}
#: Operators that move values without changing them.
_MOVES = {"Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Slice"}


def graph_precision(data: bytes) -> tuple[dict[str, dict[str, list[str]]], dict[str, int]]:
    """Read a model.

    Args:
        data: content of an ONNX file.

    Returns:
        kind of layer -> precision -> names of its nodes; and type of weights -> bytes.

    Raises:
        UnavailableError: ``onnx`` is not installed.
    """
    loaded: onnx.ModelProto = require("onnx", purpose="read the layers of a model").load_from_string(data)
    graph = loaded.graph
    types = _types(graph)
    made_by = {output: node for node in graph.node for output in node.output}
    layers: dict[str, dict[str, list[str]]] = {}
    for node in graph.node:
        if node.op_type in _COMPUTE and types.get(node.output[0]) in _NAMES.values():
            precision = _precision(node, types, made_by)
            layers.setdefault(_COMPUTE[node.op_type], {}).setdefault(precision, []).append(node.name)
    return layers, _weights(graph)


def _types(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensor -> type: a node's output has its first operand's, but for those that say otherwise."""
    types = {t.name: _name(t.data_type) for t in graph.initializer}
    types |= {v.name: _name(v.type.tensor_type.elem_type) for v in graph.input}
    for node in graph.node:
        given = [types.get(i, "") for i in node.input if i]
        out = given[0] if given else ""
        if node.op_type == "Cast":
            out = _name(next(a.i for a in node.attribute if a.name == "to"))
        elif node.op_type == "DequantizeLinear":
            out = given[1]
        elif node.op_type == "QuantizeLinear":
            out = given[2] if len(given) > 2 else "uint8"
        elif node.op_type in ("Shape", "Size"):
            out = "int64"
        elif node.op_type == "Where":
            out = given[1]
        elif node.op_type == "Constant":
            out = next((_name(a.t.data_type) for a in node.attribute if a.name == "value"), "")
        types |= dict.fromkeys(node.output, out)
    return types


def _precision(node: onnx.NodeProto, types: dict[str, str], made_by: dict[str, onnx.NodeProto]) -> str:
    sources = {_dequantised_from(name, types, made_by) for name in node.input[:2]}
    narrow = sources.pop() if len(sources) == 1 else None
    return narrow or types[node.input[0]]


def _dequantised_from(name: str, types: dict[str, str], made_by: dict[str, onnx.NodeProto]) -> str | None:
    node = made_by.get(name)
    while node is not None and node.op_type in _MOVES:
        node = made_by.get(node.input[0])
    return types[node.input[0]] if node is not None and node.op_type == "DequantizeLinear" else None


def _weights(graph: onnx.GraphProto) -> dict[str, int]:
    total: Counter[str] = Counter()
    for tensor in graph.initializer:
        total[_name(tensor.data_type)] += tensor.ByteSize()
    return dict(total.most_common())


def _name(number: int) -> str:
    """Our name of an ONNX type's number."""
    names = require("onnx", purpose="read the layers of a model").TensorProto.DataType
    text = str(names.Name(number))
    return _NAMES.get(text, text.lower())
