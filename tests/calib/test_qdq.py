"""Quantised graphs: what is quantised, that it computes the right thing, that every runtime takes it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from poster_edge.calib.cache import from_histograms
from poster_edge.calib.collect import collect
from poster_edge.calib.qdq import find_sites, quantise, tensors_to_calibrate
from poster_edge.calib.ranges import PAIRS_FIT
from poster_edge.calib.sensitivity import layer_errors
from poster_edge.errors import InputError, PosterEdgeError, UsageError
from poster_edge.export.fp16 import to_fp16
from poster_edge.export.graph import Graph
from poster_edge.export.onnx_bytes import metadata

PLACEMENTS = ("inputs-outputs", "inputs")


def session(model: onnx.ModelProto, *, optimise: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def logits(model: onnx.ModelProto, images: list[np.ndarray], *, optimise: bool = True) -> np.ndarray:
    return session(model, optimise=optimise).run(None, {"image": np.concatenate(images)})[0]


@pytest.fixture(scope="module")
def ranges(small: onnx.ModelProto, images: list[np.ndarray]) -> dict[str, float]:
    histograms = collect(small, tensors_to_calibrate(small), images)
    return {name: methods["mse"] for name, methods in from_histograms(histograms).items()}


def test_sites(small: onnx.ModelProto) -> None:
    kinds = {s.node: s.kind for s in find_sites(small)}
    assert kinds == {
        **dict.fromkeys(("n_c1", "n_c2", "n_c3", "n_c4"), "conv"),
        **dict.fromkeys(("n_q", "n_k", "n_logits"), "linear"),
        **dict.fromkeys(("n_scores", "n_mixed"), "attention"),
    }
    assert {s.node: s.axis for s in find_sites(small)}["n_logits"] == 0
    assert {s.node: s.axis for s in find_sites(small)}["n_q"] == 1


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kinds", [("conv", "linear"), ("conv", "linear", "attention"), ("linear",), ("conv",)])
def test_close_to_float(
    small: onnx.ModelProto, images: list[np.ndarray], ranges: dict[str, float], placement: str, kinds: tuple[str, ...]
) -> None:
    model = quantise(small, ranges, placement=placement, kinds=kinds)
    expected = logits(small, images)
    # As written (every pair simulated in float), and as onnxruntime computes it in integers.
    for optimise in (False, True):
        found = logits(model, images, optimise=optimise)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert 1e-5 < error < 0.1, (optimise, error)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_everything_is_symmetric_and_biases_are_float(
    small: onnx.ModelProto, ranges: dict[str, float], placement: str
) -> None:
    model = quantise(small, ranges, placement=placement, kinds=("conv", "linear", "attention"))
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = graph.initializers[node.input[2]]
            assert zero.data_type == TensorProto.INT8
            assert not numpy_helper.to_array(zero).any()
    for name in ("b1", "b2", "b3", "b4", "bh"):
        assert graph.initializers[name].data_type == TensorProto.FLOAT
    for name in ("w1", "w2", "w3", "w4", "wq", "wk", "wh"):
        assert name not in graph.initializers, f"{name} is still there in float"
        levels = graph.array(f"{name}_quantized")
        assert levels.dtype == np.int8
        assert levels.min() >= -127
        assert np.abs(levels).max() == 127
    assert graph.initializers["w5"].data_type == TensorProto.FLOAT, "1-D convolutions stay in float"


def test_weights_per_channel(small: onnx.ModelProto, ranges: dict[str, float]) -> None:
    graph = Graph(quantise(small, ranges, placement="inputs"))
    for name, axis, weight in (("w2", 0, Graph(small).array("w2")), ("wq", 1, Graph(small).array("wq"))):
        scale = graph.array(f"{name}_scale")
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        back = graph.array(f"{name}_quantized") * scale.reshape(shape)
        assert len(scale) == weight.shape[axis]
        assert np.abs(back - weight).max() <= scale.max() / 2 + 1e-7


def test_inputs_only_touches_nothing_else(small: onnx.ModelProto, ranges: dict[str, float]) -> None:
    """The residual Add, the ReLUs and LayerNorm read what they read before."""
    before, after = Graph(small), Graph(quantise(small, ranges, placement="inputs"))
    sites = {s.node for s in find_sites(small) if s.kind != "attention"}
    untouched = [n for n in before.nodes if n.name not in sites]
    changed = {n.name: n for n in after.nodes}
    assert untouched
    for node in untouched:
        assert list(changed[node.name].input) == list(node.input)


def test_excluded_nodes_stay_as_they_are(small: onnx.ModelProto, ranges: dict[str, float]) -> None:
    for placement in PLACEMENTS:
        graph = Graph(quantise(small, ranges, placement=placement, exclude={"n_c2", "n_q"}))
        assert {"w2", "wq"} <= graph.initializers.keys()
        assert "w1_quantized" in graph.initializers
    everything = {s.node for s in find_sites(small)}
    bare = quantise(small, ranges, placement="inputs-outputs", exclude=everything)
    assert [n.op_type for n in bare.graph.node] == [n.op_type for n in small.graph.node]


def test_onnxruntime_computes_all_convolutions_in_integers(
    small: onnx.ModelProto, ranges: dict[str, float], tmp_path
) -> None:
    """Also around tensors with several readers, where its conversion to UINT8 gives up."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = quantise(small, ranges, placement="inputs-outputs")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ops = [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert ops.count("QLinearConv") == 4
    assert ops.count("MatMulIntegerToFloat") == 2
    assert ops.count("Conv") == 1  # the 1-D one


def test_fp16_scales(small: onnx.ModelProto, ranges: dict[str, float]) -> None:
    graph = Graph(quantise(small, ranges, placement="inputs", fp16_scales=True))
    scales = [graph.array(n.input[1]) for n in graph.nodes if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for scale in scales:
        np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float32), scale)
        assert (scale >= np.finfo(np.float16).tiny).all()


def test_int8_with_an_fp16_rest(small: onnx.ModelProto, images: list[np.ndarray], ranges: dict[str, float]) -> None:
    model = to_fp16(quantise(small, ranges, placement="inputs", fp16_scales=True))
    expected, found = logits(small, images), logits(model, images)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.05


def test_missing_ranges_and_wrong_placement(small: onnx.ModelProto, ranges: dict[str, float]) -> None:
    with pytest.raises(PosterEdgeError, match="no range for 1 tensors, such as 'r1'"):
        quantise(small, {k: v for k, v in ranges.items() if k != "r1"}, placement="inputs")
    with pytest.raises(UsageError, match="expected inputs-outputs or inputs"):
        quantise(small, ranges, placement="outputs")


def test_constant_tensor_has_a_usable_scale(small: onnx.ModelProto, ranges: dict[str, float]) -> None:
    model = quantise(small, {**ranges, "r1": 0.0}, placement="inputs")
    assert np.isfinite(logits(model, [np.zeros((1, 3, 16, 16), np.float32)])).all()


def test_collect_counts_what_the_graph_computes(small: onnx.ModelProto, images: list[np.ndarray]) -> None:
    histograms = collect(small, ["image", "c1", "share"], images)
    everything = np.concatenate(images)
    assert histograms["image"].maximum == np.abs(everything).max()
    assert histograms["image"].total == everything.size
    assert histograms["c1"].total == len(everything) * 8 * 16 * 16
    assert histograms["share"].maximum <= 1.0
    regrouped = collect(small, ["c1"], [everything])
    np.testing.assert_allclose(regrouped["c1"].counts, histograms["c1"].counts, atol=4)


def test_collect_without_images(small: onnx.ModelProto) -> None:
    with pytest.raises(InputError, match="no images to calibrate on"):
        collect(small, ["c1"], [])


def test_layer_errors_find_the_sensitive_layer(
    small: onnx.ModelProto, images: list[np.ndarray], ranges: dict[str, float]
) -> None:
    plain = layer_errors(small, ranges, images[:1])
    assert {e.node for e in plain} == {s.node for s in find_sites(small) if s.kind != "attention"}
    assert all(1e-4 < e.relative < 0.1 for e in plain)
    assert [e.relative for e in plain] == sorted((e.relative for e in plain), reverse=True)
    # A range far too wide for one layer's input must put that layer first.
    spoilt = layer_errors(small, {**ranges, "a1": 100 * ranges["a1"]}, images[:1])
    assert spoilt[0].node == "n_c4"
    assert spoilt[0].relative > 5 * plain[0].relative


def test_layer_error_is_the_error_of_that_layer_alone(
    small: onnx.ModelProto, images: list[np.ndarray], ranges: dict[str, float]
) -> None:
    """The last layer's error equals what the logits lose when nothing else is quantised."""
    others = {s.node for s in find_sites(small)} - {"n_logits"}
    alone = quantise(small, ranges, placement="inputs", exclude=others)
    expected, found = logits(small, images[:1]), logits(alone, images[:1], optimise=False)
    by_hand = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    reported = {e.node: e.relative for e in layer_errors(small, ranges, images[:1])}["n_logits"]
    assert reported == pytest.approx(by_hand, rel=1e-3)


class TestWeightsOf7Bits:
    """For CPUs whose integer kernels add pairs of products in 16 bits."""

    @pytest.mark.parametrize("placement", PLACEMENTS)
    def test_pairs_of_products_stay_inside_16_bits(
        self, small: onnx.ModelProto, ranges: dict[str, float], placement: str
    ) -> None:
        model = quantise(small, ranges, placement=placement, weight_bits=7)
        levels = [
            numpy_helper.to_array(t).astype(int) for t in model.graph.initializer if t.name.endswith("_quantized")
        ]
        assert len(levels) == 7
        assert {int(np.abs(w).max()) for w in levels} == {63}
        assert 2 * 255 * 63 < 2**15 < 2 * 255 * 127
        assert metadata(model.SerializeToString()) == {PAIRS_FIT: "true"}
        assert not metadata(quantise(small, ranges, placement=placement).SerializeToString())

    def test_right_in_the_fast_kernels_of_any_cpu(
        self, small: onnx.ModelProto, images: list[np.ndarray], ranges: dict[str, float]
    ) -> None:
        model = quantise(small, ranges, placement="inputs-outputs", weight_bits=7)
        expected = logits(small, images)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        fast = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = fast.run(None, {"image": np.concatenate(images)})[0]
        np.testing.assert_allclose(found, logits(model, images), atol=0.02 * np.abs(expected).max())
        assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)

    def test_a_rest_in_fp16_keeps_the_promise(self, small: onnx.ModelProto, ranges: dict[str, float]) -> None:
        model = quantise(small, ranges, placement="inputs", fp16_scales=True, weight_bits=7)
        assert PAIRS_FIT in metadata(to_fp16(model).SerializeToString())

    def test_products_of_activations_promise_nothing(self, small: onnx.ModelProto, ranges: dict[str, float]) -> None:
        kinds = ("conv", "linear", "attention")
        model = quantise(small, ranges, placement="inputs", kinds=kinds, weight_bits=7)
        assert not metadata(model.SerializeToString())

    def test_other_widths_are_refused(self, small: onnx.ModelProto, ranges: dict[str, float]) -> None:
        with pytest.raises(UsageError, match="expected 8 or 7"):
            quantise(small, ranges, placement="inputs", weight_bits=4)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_operators_that_share_a_weight(placement: str) -> None:
    """Exported networks that call a layer twice have such; onnxruntime refused one DequantizeLinear for two readers."""
    rng = np.random.default_rng(0)
    helper = onnx.helper
    weights = rng.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "stem"], ["x"], name="n_stem"),
            helper.make_node("Conv", ["x", "w"], ["a"], name="n_a", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["x"], ["r"], name="n_relu"),
            helper.make_node("Conv", ["r", "w"], ["b"], name="n_b", pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["a", "b"], ["s"], name="n_sum"),
            helper.make_node("GlobalAveragePool", ["s"], ["logits"], name="n_pool"),
        ],
        "shared",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4, 1, 1])],
        [
            numpy_helper.from_array(rng.normal(0, 0.5, (4, 3, 1, 1)).astype(np.float32), "stem"),
            numpy_helper.from_array(weights, "w"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    images = [rng.normal(size=(4, 3, 8, 8)).astype(np.float32)]
    found = from_histograms(collect(model, tensors_to_calibrate(model), images))
    quantised = quantise(model, {t: r["mse"] for t, r in found.items()}, placement=placement)
    expected = logits(model, images)
    assert np.abs(logits(quantised, images) - expected).max() < 0.05 * np.abs(expected).max()
    assert sum(n.op_type == "Conv" for n in quantised.graph.node) == 3
