"""Layers: costs with known answers, and every runtime's own layers, which add up to the model's operations."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from poster_edge.bench.layers import LayerProfile, profile_layers
from poster_edge.bench.layers_flops import product_flops
from poster_edge.bench.layers_graph import Graph, read_graph
from poster_edge.bench.layers_join import Trace, assign
from poster_edge.bench.layers_torch import operator_flops
from poster_edge.errors import InputError
from poster_edge.models.registry import REGISTRY
from poster_edge.runtime import trt_plans, trt_runner
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.choose import make_runner

FLOPS = REGISTRY["poster-nano"].flops


def model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], output: list[Any]) -> bytes:
    """A graph over image (N, 3, 8, 8)."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString())


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"n_{output}", **attributes)


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


CONVOLUTION = model(
    [
        node("Conv", "image w b", "conv", pads=[1, 1, 1, 1]),
        node("Relu", "conv", "relu"),
        node("Flatten", "relu", "flat"),
        node("Gemm", "flat w2", "out"),
    ],
    {"w": floats(4, 3, 3, 3), "b": floats(4), "w2": floats(256, 5)},
    ["N", 5],
)

QUANTISED = model(
    [
        node("QuantizeLinear", "image s z", "image_q"),
        node("DequantizeLinear", "image_q s z", "image_dq"),
        node("DequantizeLinear", "w s z", "w_dq"),
        node("Conv", "image_dq w_dq", "conv", pads=[1, 1, 1, 1]),
        node("QuantizeLinear", "conv s z", "conv_q"),
        node("DequantizeLinear", "conv_q s z", "conv_dq"),
        node("Flatten", "conv_dq", "flat"),
        node("MatMul", "flat w2", "out"),
    ],
    {
        "w": np.ones((4, 3, 3, 3), np.int8),
        "w2": floats(256, 5),
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
    },
    ["N", 5],
)


def indices(graph: Graph, *names: str) -> list[int]:
    return [i for i, n in enumerate(graph.nodes) if n.name in {f"n_{name}" for name in names}]


def test_costs_of_a_convolution_and_what_is_fused_behind_it() -> None:
    graph = read_graph(CONVOLUTION, batch=2)
    cost = graph.cost(indices(graph, "conv", "relu"))
    assert cost.flops == {"fp32": 2 * (2 * 4 * 8 * 8) * 27}
    # The tensor between the two is not stored; the other is, once.
    assert (cost.weights, cost.inputs, cost.outputs) == (4 * (4 * 27 + 4), 4 * 2 * 192, 4 * 2 * 256)
    alone = graph.cost(indices(graph, "relu"))
    assert (alone.total_flops, alone.others, alone.inputs, alone.outputs) == (0, 512, 2048, 2048)
    # A view costs nothing, and the product behind it reads what lies in memory.
    assert graph.cost(indices(graph, "flat")).bytes == 0
    last = graph.cost(indices(graph, "out"))
    assert (last.total_flops, last.inputs, last.outputs) == (2 * 2 * 256 * 5, 2048, 40)
    assert graph.total().total_flops == cost.total_flops + last.total_flops


def test_quantised_tensors_count_as_they_are_stored() -> None:
    graph = read_graph(QUANTISED, batch=1)
    product = graph.cost(indices(graph, "image_dq", "conv", "conv_q"))
    assert product.flops == {"int8": 2 * 256 * 27}
    assert (product.weights, product.inputs, product.outputs) == (108 + 5, 192, 256)
    # INT8 in, FP32 weights: computed in FP32, but only the integers are read.
    last = graph.cost(indices(graph, "conv_dq", "flat", "out"))
    assert last.flops == {"fp32": 2 * 256 * 5}
    assert (last.weights, last.inputs, last.outputs) == (4 * 1280, 256, 20)


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "flops"),
    [
        ("Conv", [(1, 8, 6, 6), (8, 1, 3, 3)], (1, 8, 6, 6), {"group": 8}, 2 * 288 * 9),
        ("ConvTranspose", [(2, 10, 7), (10, 4, 2)], (2, 4, 14), {}, 2 * 140 * 8),
        ("MatMul", [(2, 3, 5, 7), (2, 3, 7, 4)], (2, 3, 5, 4), {}, 2 * 120 * 7),
        ("Gemm", [(7, 5), (7, 4)], (5, 4), {"transA": 1}, 2 * 20 * 7),
        ("QLinearConv", [(1, 3, 4, 4), (), (), (2, 3, 1, 1)], (1, 2, 4, 4), {}, 2 * 32 * 3),
        ("Attention", [(1, 2, 5, 8), (1, 2, 6, 8), (1, 2, 6, 8)], (1, 2, 5, 8), {}, 2 * (2 * 2 * 5 * 6 * 8)),
        ("Attention", [(1, 5, 16), (1, 6, 16), (1, 6, 16)], (1, 5, 16), {"q_num_heads": 2}, 2 * (2 * 2 * 5 * 6 * 8)),
        ("Softmax", [(1, 5)], (1, 5), {}, 0),
    ],
)
def test_product_flops(
    op: str, inputs: list[tuple[int, ...]], output: tuple[int, ...], attributes: dict[str, int], flops: int
) -> None:
    assert product_flops(op, inputs, [output], attributes) == flops


@pytest.mark.parametrize(
    ("kind", "shapes", "values", "expected"),
    [
        ("linear", [[2, 5, 8], [16, 8], [16]], [None] * 3, (2 * 160 * 8, 160)),
        (
            "conv2d",
            [[1, 4, 9, 9], [8, 2, 3, 3], []],
            [None, None, None, [2, 2], [1, 1], [1, 1], 2],
            (2 * 200 * 18, 200),
        ),
        ("conv_transpose1d", [[1, 10, 7], [10, 4, 2]], [None, None, None, [2], [0], [0], 1, [1]], (2 * 70 * 8, 56)),
        ("matmul", [[2, 4, 5, 6], [2, 4, 6, 5]], [None] * 2, (2 * 200 * 6, 200)),
        ("addmm", [[3], [2, 4], [4, 3]], [None] * 3, (2 * 6 * 4, 6)),
        ("scaled_dot_product_attention", [[1, 2, 5, 8]] * 3, [None] * 3, (4 * 2 * 25 * 8, 80)),
        ("relu", [[4, 4]], [None], (0, 0)),
    ],
)
def test_operator_flops(kind: str, shapes: list[list[int]], values: list[Any], expected: tuple[int, int]) -> None:
    assert operator_flops(kind, shapes, values) == expected


@pytest.mark.parametrize("batch", [1, 3])
def test_packaged_model_has_the_registrys_operations(batch: int) -> None:
    total = read_graph(load_bundle("poster-nano").read("model.onnx"), batch=batch).total()
    assert total.flops == {"fp32": batch * FLOPS}
    assert (total.inputs, total.outputs) == (batch * 4 * 3 * 48 * 48, batch * 4 * 7)
    assert total.weights == pytest.approx(4 * REGISTRY["poster-nano"].live_parameters, rel=0.01)


def test_a_broken_model_is_one_line() -> None:
    with pytest.raises(InputError, match="cannot be inferred at batch 1"):
        read_graph(b"no model", batch=1)


def test_nodes_nobody_claims_go_to_their_neighbours() -> None:
    """The convolution lost its name to the layer behind it, the view and the product to nobody."""
    graph = read_graph(CONVOLUTION, batch=1)
    traces = [
        Trace("a", "Conv", (1.0,), tensors=("relu",)),
        Trace("b", "Copy", (1.0,)),
        Trace("c", "Gemm", (1.0,), ("n_out",)),
    ]
    assert assign(graph, traces) == [indices(graph, "conv", "relu", "flat"), [], indices(graph, "out")]
    nameless = [Trace("a", "Conv", (1.0,), feeds=("n_relu",)), Trace("b", "Relu", (1.0,), ("n_relu",))]
    assert assign(graph, nameless) == [indices(graph, "conv"), indices(graph, "relu", "flat", "out")]


def check(found: LayerProfile, batch: int) -> None:
    assert sum(layer.cost.total_flops for layer in found.layers) == batch * FLOPS
    assert all(layer.ms >= 0 for layer in found.layers)
    assert found.slowest(3)[0].ms == max(layer.ms for layer in found.layers)
    assert (found.batch, found.runs) == (batch, 2)


@pytest.mark.parametrize(
    ("runtime", "products"),
    [
        ("onnxruntime", {"Conv", "ConvTranspose", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"}),
        ("openvino", {"Convolution", "Deconvolution", "FullyConnected", "MatMul", "Subgraph"}),
        ("torch", {"conv1d", "conv2d", "conv_transpose1d", "linear", "scaled_dot_product_attention"}),
    ],
)
def test_layers_add_up_to_the_model(runtime: str, products: set[str]) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    bundle = load_bundle("poster-nano")
    runner = make_runner(bundle, runtime=runtime, precision="fp32", device="cpu", threads=1)
    data = None if runtime == "torch" else bundle.read(runner.file)
    feed = {"image": np.random.default_rng(0).normal(0, 0.5, (2, 3, 48, 48)).astype(np.float32)}
    found = profile_layers(runner, data, feed, runs=2, warmup=1)
    check(found, 2)
    assert {layer.kind for layer in found.layers if layer.cost.total_flops} <= products
    if data is not None:
        nodes = [name for layer in found.layers for name in layer.nodes]
        assert len(nodes) == len(set(nodes)) == len(read_graph(data, batch=2).nodes)


def test_tensorrts_profiler_is_joined_by_name(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the double of TensorRT that computes with onnxruntime; what its layers are called is as in NVIDIA's guide."""
    module = runpy.run_path(str(Path(__file__).parents[1] / "runtime" / "cuda_double.py"))
    double = module["TensorRtDouble"]()
    double.module.IProfiler = type("IProfiler", (), {})
    plain = module["ContextDouble"].execute_async_v3

    def reported(context: Any, stream: int) -> bool:
        done = plain(context, stream)
        if getattr(context, "profiler", None):
            context.profiler.report_layer_time("Reformatting CopyNode for Input Tensor 0", 0.25)
            context.profiler.report_layer_time("flat + logits", 0.5)
        return bool(done)

    monkeypatch.setattr(module["ContextDouble"], "execute_async_v3", reported)
    monkeypatch.setattr(trt_runner, "load", lambda flavour: double)
    monkeypatch.setattr(trt_runner, "open_device", double.open)
    monkeypatch.setattr(trt_runner, "require_gpu", lambda index: double.device.gpu)
    monkeypatch.setattr(trt_runner, "choose_package", lambda: "numpy")
    monkeypatch.setattr(trt_plans, "build_plan", lambda tensorrt, graph, *rest, **more: double.build(graph))
    monkeypatch.setenv("POSTER_EDGE_CACHE", str(tmp_path))
    bundle = load_bundle(tiny_bundle)
    runner: Any = make_runner(bundle, runtime="tensorrt-rtx", precision="fp32", device="auto", threads=None)
    runner.times_copies = True
    feed = {"image": np.ones((2, 3, 16, 16), np.float32)}
    found = profile_layers(runner, bundle.read("model.onnx"), feed, runs=4)
    assert [(layer.name, layer.ms, layer.cost.total_flops) for layer in found.layers] == [
        ("Reformatting CopyNode for Input Tensor 0", 0.25, 0),
        ("flat + logits", 0.5, 2 * 2 * 768 * 7),
    ]
    assert not any("into a graph" in entry for entry in double.device.log)
    # A copy is one step of the double's clock and its event another.
    assert runner.copy_ms >= 4
    assert double.device.live == 0


def test_a_runner_without_profiler_is_refused() -> None:
    from poster_edge.errors import UnavailableError

    runner: Any = SimpleNamespace(description="x", file="y")
    with pytest.raises(UnavailableError, match="no profiler"):
        profile_layers(runner, CONVOLUTION, {"image": floats(1, 3, 8, 8)}, runs=1)
