"""A small network with everything that quantisation meets, as poster-edge exports it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from poster_edge.export.graph import constant

SIZE, CLASSES = 16, 4


@pytest.fixture(scope="session")
def small() -> onnx.ModelProto:
    """Residual convolutions, ReLU, a 1-D convolution, linear layers, attention, LayerNorm."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> str:
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
        weights.append(constant(name, rng.normal(0, (2 / fan) ** 0.5, shape).astype(np.float32)))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> None:
        nodes.append(helper.make_node(op, inputs, [output], name=f"n_{output}", **attributes))

    weights: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    node("Conv", ["image", weight("w1", 8, 3, 3, 3), weight("b1", 8)], "c1", pads=[1, 1, 1, 1])
    node("Relu", ["c1"], "r1")
    node("Conv", ["r1", weight("w2", 8, 8, 3, 3), weight("b2", 8)], "c2", pads=[1, 1, 1, 1])
    node("Relu", ["c2"], "r2")
    node("Conv", ["r2", weight("w3", 8, 8, 1, 1), weight("b3", 8)], "c3")
    # r1 has two readers: the fan-out that onnxruntime's UINT8 conversion passes over.
    node("Add", ["c3", "r1"], "a1")
    node("Conv", ["a1", weight("w4", 16, 8, 4, 4), weight("b4", 16)], "c4", strides=[4, 4])
    weights.append(constant("shape", np.array([0, 16, 16], np.int64)))
    node("Reshape", ["c4", "shape"], "t0")
    node("Transpose", ["t0"], "t1", perm=[0, 2, 1])
    node("Conv", ["t1", weight("w5", 16, 16, 1), weight("b5", 16)], "t2")
    weights += [constant("g", np.ones(16, np.float32)), constant("o", np.zeros(16, np.float32))]
    node("LayerNormalization", ["t2", "g", "o"], "ln", axis=-1, epsilon=1e-5)
    node("MatMul", ["ln", weight("wq", 16, 16)], "q")
    node("MatMul", ["ln", weight("wk", 16, 16)], "k")
    node("Transpose", ["k"], "kt", perm=[0, 2, 1])
    node("MatMul", ["q", "kt"], "scores")
    node("Softmax", ["scores"], "share", axis=-1)
    node("MatMul", ["share", "ln"], "mixed")
    weights.append(constant("axes", np.array([1], np.int64)))
    node("ReduceMean", ["mixed", "axes"], "pooled", keepdims=0)
    node("Gemm", ["pooled", weight("wh", CLASSES, 16), weight("bh", CLASSES)], "logits", transB=1)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    """Batches of smooth random pictures, normalised."""
    rng = np.random.default_rng(1)
    coarse = rng.normal(0, 0.7, (48, 3, 4, 4)).astype(np.float32)
    fine = coarse.repeat(4, axis=2).repeat(4, axis=3) + rng.normal(0, 0.1, (48, 3, SIZE, SIZE)).astype(np.float32)
    return list(np.split(fine.astype(np.float32).clip(-1.6, 1.6), 4))
