"""Rewrites before quantisation: the same function to the last bit or nearly, and only where the rule holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from poster_edge.calib.rewrite import rewrite
from poster_edge.export.graph import constant

RNG = np.random.default_rng(0)


def one_node(op: str, shape: tuple[int, ...], *weights: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    names = [f"w{i}" for i in range(len(weights))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], name="node", **attributes)],
        op,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *(f"y{i}" for i in range(len(shape)))])],
        [constant(n, w.astype(np.float32)) for n, w in zip(names, weights, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("model", "placement", "expected"),
    [
        (
            one_node("ConvTranspose", (5, 7), RNG.normal(size=(5, 6, 4)), RNG.normal(size=6), strides=[4]),
            "inputs",
            ["MatMul", "Reshape", "Transpose", "Reshape", "Add"],
        ),
        (
            one_node("ConvTranspose", (5, 7), RNG.normal(size=(5, 6, 2)), strides=[2]),
            "inputs",
            ["MatMul", "Reshape", "Transpose", "Reshape"],
        ),
        (one_node("PRelu", (5, 4, 4), RNG.uniform(-1, 1, (5, 1, 1))), "inputs-outputs", ["Mul", "Max"]),
        (one_node("PRelu", (5, 4, 4), RNG.uniform(1, 2, (5, 1, 1))), "inputs-outputs", ["Mul", "Min"]),
        (one_node("MaxPool", (5, 7, 8), kernel_shape=[1, 1], strides=[2, 3]), "inputs-outputs", ["Slice"]),
    ],
    ids=["upsampling", "without-bias", "prelu", "steep-prelu", "subsampling"],
)
def test_same_function(model: onnx.ModelProto, placement: str, expected: list[str], batch: int) -> None:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(1).normal(size=(batch, *shape)).astype(np.float32)
    other = rewrite(model, placement=placement)
    assert ops(other) == expected
    np.testing.assert_allclose(run(other, x), run(model, x), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("model", "placement"),
    [
        (one_node("ConvTranspose", (5, 7), RNG.normal(size=(5, 6, 4)), strides=[2]), "inputs"),
        (one_node("ConvTranspose", (5, 7), RNG.normal(size=(5, 6, 4)), strides=[4]), "inputs-outputs"),
        (one_node("ConvTranspose", (5, 7), RNG.normal(size=(5, 6, 4)), strides=[4], pads=[1, 1]), "inputs"),
        (one_node("ConvTranspose", (6, 7), RNG.normal(size=(6, 3, 2)), strides=[2], group=2), "inputs"),
        (one_node("ConvTranspose", (5, 7, 7), RNG.normal(size=(5, 6, 2, 2)), strides=[2, 2]), "inputs"),
        (one_node("PRelu", (5, 4, 4), np.array([0.5, 1, 2, 0, -1]).reshape(5, 1, 1)), "inputs-outputs"),
        (one_node("PRelu", (5, 4, 4), RNG.uniform(-1, 1, (5, 1, 1))), "inputs"),
        (one_node("MaxPool", (5, 7, 8), kernel_shape=[2, 2], strides=[2, 2]), "inputs-outputs"),
        (one_node("MaxPool", (5, 7, 8), kernel_shape=[1, 1], strides=[2, 2]), "inputs"),
    ],
    ids=["overlap", "onnxruntime", "padded", "grouped", "2-D", "mixed-slopes", "prelu-inputs", "pool", "pool-inputs"],
)
def test_left_alone(model: onnx.ModelProto, placement: str) -> None:
    assert ops(rewrite(model, placement=placement)) == ops(model)


def test_named_nodes_are_kept() -> None:
    model = one_node("PRelu", (5, 4, 4), RNG.uniform(0, 1, (5, 1, 1)))
    assert ops(rewrite(model, placement="inputs-outputs", keep={"node"})) == ["PRelu"]
