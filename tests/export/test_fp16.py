"""FP16 in the graph: types, values, islands, overflow."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from poster_edge.errors import PosterEdgeError
from poster_edge.export.fp16 import FP16_MAX, input_range, overflow_islands, to_fp16
from poster_edge.export.graph import constant, tensor_types
from poster_edge.runtime.bundle import load_bundle


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]


def exactly(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    """In FP16 as it is written; onnxruntime's CPU kernels compute it in float32 and hide an overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return ReferenceEvaluator(model).run(None, {"image": image})[0]


@pytest.fixture(scope="module")
def nano() -> onnx.ModelProto:
    return onnx.load_from_string(load_bundle("poster-nano").read("model.onnx"))


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    from poster_edge.data.preprocess import to_input
    from poster_edge.vision.samples import sample_crops

    preprocess = load_bundle("poster-nano").manifest.preprocess
    return to_input(sample_crops(preprocess), preprocess)


def precision_counts(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes compute in each type, by the type of their first output; Q/DQ and casts left out."""
    types = tensor_types(model)
    names: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast"):
            continue
        kind = names.get(types.get(node.output[0], 0), "other")
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def chain(scale: float, *, depth: int = 2) -> onnx.ModelProto:
    """image -> x·scale, ``depth`` times, then divided back: overflows FP16 in the middle."""
    nodes, name = [], "image"
    for i in range(depth):
        nodes.append(helper.make_node("Mul", [name, "scale"], [f"up{i}"], name=f"up{i}"))
        name = f"up{i}"
    for i in range(depth):
        out = "logits" if i == depth - 1 else f"down{i}"
        nodes.append(helper.make_node("Div", [name, "scale"], [out], name=f"down{i}"))
        name = out
    shape = ["batch", 3, 2, 2]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [constant("scale", np.array(scale, np.float32))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_everything_inside_is_fp16(nano: onnx.ModelProto) -> None:
    half = to_fp16(nano)
    types = tensor_types(half)
    assert types["image"] == types["logits"] == TensorProto.FLOAT
    assert precision_counts(half) == {"fp16": len(nano.graph.node)}
    assert not [t.name for t in half.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert sum(n.op_type == "Cast" for n in half.graph.node) == 2
    assert len(half.SerializeToString()) < 0.52 * len(nano.SerializeToString())


def test_close_to_float(nano: onnx.ModelProto, faces: np.ndarray) -> None:
    expected = run(nano, faces)
    found = run(to_fp16(nano), faces)
    assert 0 < np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def test_islands_stay_in_float32(nano: onnx.ModelProto, faces: np.ndarray) -> None:
    islands = {n.name for n in nano.graph.node if n.op_type in ("Softmax", "LayerNormalization")}
    mixed = to_fp16(nano, islands=islands)
    types = tensor_types(mixed)
    for node in mixed.graph.node:
        if node.name in islands:
            assert types[node.output[0]] == types[node.input[0]] == TensorProto.FLOAT
    assert precision_counts(mixed)["fp32"] == len(islands)
    np.testing.assert_allclose(run(mixed, faces), run(nano, faces), atol=0.02)


def test_all_islands_is_float32_again(nano: onnx.ModelProto, faces: np.ndarray) -> None:
    whole = to_fp16(nano, islands={n.name for n in nano.graph.node})
    np.testing.assert_allclose(run(whole, faces), run(nano, faces), atol=1e-5)


def test_unknown_island() -> None:
    with pytest.raises(PosterEdgeError, match="no nodes named nowhere"):
        to_fp16(chain(2.0), islands={"nowhere"})


def test_overflow_is_found_and_avoided() -> None:
    model, image = chain(1000.0), np.ones((2, 3, 2, 2), np.float32)
    assert not np.isfinite(exactly(to_fp16(model), image)).any(), "the example must overflow, or it shows nothing"
    found = overflow_islands(model, [image])
    assert found == {"up1": 1e6, "down0": 1e6}
    np.testing.assert_allclose(exactly(to_fp16(model, islands=found), image), image, rtol=2e-3)


def test_nothing_overflows_in_the_packaged_model(nano: onnx.ModelProto, faces: np.ndarray) -> None:
    assert overflow_islands(nano, [faces]) == {}


def test_model_that_is_broken_in_float32() -> None:
    with pytest.raises(PosterEdgeError, match="not finite in float32 already"):
        overflow_islands(chain(1e30), [np.ones((1, 3, 2, 2), np.float32)])


def test_input_is_clamped_to_what_pictures_can_hold(nano: onnx.ModelProto, faces: np.ndarray) -> None:
    preprocess = load_bundle("poster-nano").manifest.preprocess
    limits = input_range(preprocess.mean, preprocess.std)
    half = to_fp16(nano, input_range=limits)
    # No picture is changed: black and white are the limits themselves.
    np.testing.assert_array_equal(run(half, faces), run(to_fp16(nano), faces))
    for wild in (1e3 * faces, np.full_like(faces, np.inf), -1e30 * np.ones_like(faces)):
        assert np.isfinite(run(half, wild)).all()
    np.testing.assert_array_equal(
        run(half, 1e6 * faces), run(half, np.where(faces > 0, limits[1], limits[0]).astype("f4"))
    )


def test_input_range() -> None:
    low, high = input_range((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (low, high) == (pytest.approx(-2.1179, abs=1e-4), pytest.approx(2.64, abs=1e-4))


def test_weights_beyond_fp16() -> None:
    with pytest.raises(PosterEdgeError, match="'scale' holds 7e\\+04, beyond FP16's range"):
        to_fp16(chain(7e4))
    assert to_fp16(chain(7e4), islands={"up0", "up1", "down0", "down1"})


def test_infinite_masks_become_the_lowest_value() -> None:
    model = chain(2.0)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(-np.inf, np.float32), "scale"))
    half = to_fp16(model)
    assert numpy_helper.to_array(half.graph.initializer[0]) == np.float16(-FP16_MAX)
