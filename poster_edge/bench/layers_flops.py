"""Operations of one ONNX node: products at 2 per multiply-add, and element-wise work apart from them.

The counting of products is that of :mod:`poster_edge.models.registry`, so that the two agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Shape = tuple[int, ...]

#: Nodes whose operations are products (operators of onnxruntime's optimised graphs included).
PRODUCTS = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "ConvInteger",
        "QLinearConv",
        "FusedConv",
        "MatMul",
        "MatMulInteger",
        "QLinearMatMul",
        "FusedMatMul",
        "Gemm",
        "FusedGemm",
        "QGemm",
        "Attention",
    }
)
#: Nodes with products that are not counted here; a graph that has one gets a note.
UNCOUNTED = frozenset({"Einsum", "LSTM", "GRU", "RNN", "MultiHeadAttention", "GroupQueryAttention"})
#: Nodes that move or rename data and compute nothing.
MOVES = frozenset(
    {
        "Cast",
        "Concat",
        "DequantizeLinear",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "QuantizeLinear",
        "Reshape",
        "Shape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
#: Operations per element of the output, where it is more than one; rough, and no bound is made of them.
_PER_ELEMENT = {"Softmax": 5, "LogSoftmax": 5, "LayerNormalization": 7, "BatchNormalization": 2}
#: Operators in whose quantised form a scale and a zero point stand between the two factors.
_SECOND_FACTOR = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}


def product_flops(op: str, inputs: Sequence[Shape], outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """Operations of a product, 2 per multiply-add; 0 for any other node.

    Args:
        op: type of the node.
        inputs: shape of each input, ``()`` where there is none.
        outputs: shape of each output.
        attributes: of the node.
    """
    if op not in PRODUCTS:
        return 0
    second = inputs[_SECOND_FACTOR.get(op, 1)]
    if op == "ConvTranspose":
        # each input value meets the whole filter of its group: (Cin, Cout / groups, *kernel)
        return 2 * math.prod(inputs[0]) * math.prod(second[1:])
    if "Conv" in op:
        # each output value is a sum over one filter: (Cout, Cin / groups, *kernel)
        return 2 * math.prod(outputs[0]) * math.prod(second[1:])
    if op == "Attention":
        return _attention(inputs, outputs)
    transposed = attributes.get("transA", 0)
    inner = inputs[0][-2] if transposed and len(inputs[0]) > 1 else inputs[0][-1]
    return 2 * math.prod(outputs[0]) * inner


def _attention(inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Both products of ONNX's Attention: queries with keys and weights with values, whole heads or folded."""
    query, key = inputs[0], inputs[1]
    # (B, H, N, D) or (B, N, H * D): all heads together, an output value is a sum over the keys
    tokens = math.prod(query) * key[-2]
    return 2 * tokens + 2 * math.prod(outputs[0]) * key[-2]


def other_operations(op: str, inputs: Sequence[Shape], outputs: Sequence[Shape], attributes: Mapping[str, Any]) -> int:
    """Element-wise operations of a node, roughly: one per value, more for softmax and normalisation."""
    if op in PRODUCTS or op in MOVES or not outputs:
        return 0
    if op.startswith(("Reduce", "Global")):
        return math.prod(inputs[0])
    if op in ("MaxPool", "AveragePool"):
        return math.prod(outputs[0]) * math.prod(attributes.get("kernel_shape", (1,)))
    return math.prod(outputs[0]) * _PER_ELEMENT.get(op, 1)
