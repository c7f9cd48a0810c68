"""Freed shapes: the same network for any size, checked with ONNX's own checker and onnxruntime; no crash on damage."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from poster_edge.export.onnx_shapes import with_free_shapes

FREE = (1, 3, "height", "width")


def network(*, size: int = 32) -> onnx.ModelProto:
    """Two convolutions with strides, whose sizes are written down for every value."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name)
        for name, shape in (("first", (4, 3, 3, 3)), ("second", (2, 4, 3, 3)))
    ]
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["picture", "first"], ["half"], **same),
            helper.make_node("Relu", ["half"], ["positive"]),
            helper.make_node("Conv", ["positive", "second"], ["quarter"], **same),
        ],
        "network",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, (1, 3, size, size))],
        [helper.make_tensor_value_info("quarter", TensorProto.FLOAT, (1, 2, size // 4, size // 4))],
        weights,
        value_info=[helper.make_tensor_value_info("half", TensorProto.FLOAT, (1, 4, size // 2, size // 2))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model, full_check=True)
    return model


def run(data: bytes, picture: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"picture": picture})[0])


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (5, 7)], ids=str)
def test_any_size_gives_what_a_network_made_for_it_gives(size: tuple[int, int]) -> None:
    freed = with_free_shapes(network().SerializeToString(), FREE)
    picture = np.random.default_rng(1).normal(0, 1, (1, 3, *size)).astype(np.float32)
    made = network()
    del made.graph.value_info[:]
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_value = size[0]
    made.graph.input[0].type.tensor_type.shape.dim[3].dim_value = size[1]
    for dim in made.graph.output[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = dim.dim_param or "any"
    np.testing.assert_array_equal(run(freed, picture), run(made.SerializeToString(), picture))


def test_it_stays_a_model_and_changes_nothing_else() -> None:
    before, after = network(), onnx.load_from_string(with_free_shapes(network().SerializeToString(), FREE))
    onnx.checker.check_model(after, full_check=True)
    assert [n.SerializeToString() for n in after.graph.node] == [n.SerializeToString() for n in before.graph.node]
    assert list(after.graph.initializer) == list(before.graph.initializer)
    assert after.opset_import == before.opset_import
    dims = after.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == list(FREE)
    assert not after.graph.value_info
    assert [o.name for o in after.graph.output] == ["quarter"]


def test_damaged_bytes_are_a_value_error_at_worst() -> None:
    data = network().SerializeToString()
    random = np.random.default_rng(2)
    for _ in range(300):
        damaged = bytearray(data)
        for at in random.integers(0, len(data), 3):
            damaged[at] = random.integers(0, 256)
        for cut in (bytes(damaged), bytes(damaged[: random.integers(0, len(data))])):
            with suppress(ValueError):
                assert isinstance(with_free_shapes(cut, FREE), bytes)
