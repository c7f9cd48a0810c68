"""The whole graphs that benchmarks/broken_onnx.py damages: small, each with other operators of ours."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def seeds() -> dict[str, bytes]:
    """Name -> ONNX file of a few hundred bytes to a few kB; every one is built by TensorRT-RTX."""
    makers = (_convolution, _int8, _attention, _shapes, _branch)
    return {make.__name__[1:]: bytes(make().SerializeToString()) for make in makers}


def _weights(name: str, *shape: int, dtype: type = np.float16) -> TensorProto:
    values = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    return numpy_helper.from_array((values * (100 if dtype is np.int8 else 1)).astype(dtype), name)


def _values(name: str, values: object, dtype: type = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def _model(nodes: list[NodeProto], weights: list[TensorProto], kind: int = _HALF) -> ModelProto:
    image = helper.make_tensor_value_info("image", kind, ["N", 3, 8, 8])
    out = helper.make_tensor_value_info("out", kind, None)
    graph = helper.make_graph(nodes, "small", [image], [out], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _convolution() -> ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["a"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("PRelu", ["a", "slope"], ["b"], name="prelu"),
        helper.make_node("MaxPool", ["b"], ["c"], name="pool", kernel_shape=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], name="mean"),
        helper.make_node("Flatten", ["d"], ["e"], name="flat", axis=1),
        helper.make_node("Gemm", ["e", "head", "bias"], ["out"], name="head", transB=1),
    ]
    weights = [_weights("kernel", 4, 3, 3, 3), _weights("slope", 4, 1, 1), _weights("head", 7, 4), _weights("bias", 7)]
    return _model(nodes, weights)


def _int8() -> ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"], name="dequantise"),
        helper.make_node("DequantizeLinear", ["k", "ks", "kz"], ["kernel"], name="weights", axis=0),
        helper.make_node("Conv", ["x", "kernel"], ["a"], name="conv"),
        helper.make_node("Relu", ["a"], ["out"], name="relu"),
    ]
    scales = _values("ks", [0.02] * 4, np.float32)
    weights = [_values("s", 0.1, np.float32), _values("z", 0, np.int8), scales, _values("kz", [0] * 4, np.int8)]
    return _model(nodes, [_weights("k", 4, 3, 3, 3, dtype=np.int8), *weights], _FLOAT)


def _attention() -> ModelProto:
    nodes = [
        helper.make_node("Reshape", ["image", "tokens"], ["t"], name="tokens"),
        helper.make_node("LayerNormalization", ["t", "gain", "shift"], ["n"], name="norm", axis=-1, epsilon=1e-5),
        helper.make_node("MatMul", ["n", "wq"], ["q"], name="query"),
        helper.make_node("MatMul", ["n", "wk"], ["k"], name="key"),
        helper.make_node("Transpose", ["k"], ["kt"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"], name="scores"),
        helper.make_node("Softmax", ["s"], ["p"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["p", "n"], ["y"], name="values"),
        helper.make_node("Gelu", ["y"], ["g"], name="gelu"),
        helper.make_node("Add", ["g", "t"], ["out"], name="add"),
    ]
    weights = [_values("tokens", [-1, 12, 16]), _weights("gain", 16), _weights("shift", 16)]
    return _model(nodes, [*weights, _weights("wq", 16, 16), _weights("wk", 16, 16)])


def _shapes() -> ModelProto:
    nodes = [
        helper.make_node("Resize", ["image", "", "scales"], ["a"], name="resize", mode="nearest"),
        helper.make_node("Slice", ["a", "from", "to", "axes"], ["b"], name="slice"),
        helper.make_node("Concat", ["b", "b"], ["c"], name="concat", axis=1),
        helper.make_node("Gather", ["c", "pick"], ["d"], name="gather", axis=1),
        helper.make_node("Pad", ["d", "pads"], ["e"], name="pad"),
        helper.make_node("ReduceMean", ["e", "last"], ["f"], name="mean", keepdims=0),
        helper.make_node("Split", ["f"], ["g", "h"], name="split", axis=1, num_outputs=2),
        helper.make_node("Where", ["yes", "g", "h"], ["i"], name="where"),
        helper.make_node("Clip", ["i", "low", "high"], ["out"], name="clip"),
    ]
    weights = [
        _values("scales", [1, 1, 2, 2], np.float32),
        _values("from", [0]),
        _values("to", [8]),
        _values("axes", [3]),
        _values("pick", [0, 5, 3, 1]),
        _values("pads", [0, 0, 1, 1, 0, 0, 1, 1]),
        _values("last", [3]),
        _values("yes", [True], np.bool_),
        _values("low", -1, np.float16),
        _values("high", 1, np.float16),
    ]
    return _model(nodes, weights)


def _branch() -> ModelProto:
    def side(name: str, operator: str) -> GraphProto:
        out = helper.make_tensor_value_info(name, _HALF, None)
        return helper.make_graph([helper.make_node(operator, ["image"], [name], name=name)], name, [], [out])

    nodes = [
        helper.make_node("ReduceMax", ["image"], ["top"], name="top", keepdims=0),
        helper.make_node("Greater", ["top", "bar"], ["bright"], name="bright"),
        helper.make_node(
            "If", ["bright"], ["out"], name="if", then_branch=side("then", "Relu"), else_branch=side("else", "Neg")
        ),
    ]
    return _model(nodes, [_values("bar", 0.5, np.float16)])
