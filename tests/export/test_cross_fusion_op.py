"""One node for each cross-fusion depth: the same file, the same numbers, in onnxruntime and TensorRT-RTX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from poster_edge.errors import PosterEdgeError
from poster_edge.export.cross_fusion_op import DOMAIN, OP
from poster_edge.export.onnx import export_onnx
from poster_edge.export.plugin_graph import plugin_graph
from poster_edge.export.tensorrt_api import TensorRt
from poster_edge.kernels.pack import pack
from poster_edge.kernels.plugin.weights import join_weights
from poster_edge.models.fusion import PyramidFusion
from poster_edge.models.poster import Poster
from poster_edge.models.poster_config import POSTER_CONFIGS

NANO = next(c for c in POSTER_CONFIGS if c.variant == "poster-nano")


def run(path: Path, x: np.ndarray) -> np.ndarray:
    return np.asarray(ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": x})[0])


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_body_computes_what_the_plain_graph_computes(exported_nano: tuple[Poster, Path, Path], batch: int) -> None:
    nano, plain, fused = exported_nano
    x = np.random.default_rng(batch).normal(size=(batch, 3, 48, 48)).astype(np.float32)
    with torch.no_grad():
        expected = nano(torch.from_numpy(x)).numpy()
    scale = np.abs(expected).max()
    assert np.abs(run(fused, x) - expected).max() < 1e-5 * scale
    assert np.abs(run(fused, x) - run(plain, x)).max() < 1e-6 * scale


def test_each_depth_is_one_node_with_its_own_weights(exported_nano: tuple[Poster, Path, Path]) -> None:
    nano, plain, fused = exported_nano
    model = onnx.load(fused)
    nodes = [n for n in model.graph.node if n.domain == DOMAIN]
    function = model.functions[0]
    assert [(n.op_type, n.attribute[0].i) for n in nodes] == [(OP, 2)] * nano.config.depth
    assert [len(n.input) for n in nodes] == [len(function.input)] * len(nodes)
    left = {n.op_type for n in model.graph.node}
    assert not left & {"Softmax", "Gelu", "ConvTranspose"}, "nothing of a depth is left outside"
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    state = nano.state_dict()
    # What the function calls block_m.mlp1.fc1 is that layer of each depth, transposed.
    place = list(function.input).index("block_m.mlp1.fc1.weight_t")
    for i, node in enumerate(nodes):
        expected = state[f"pyramid_fuse.blocks.{i}.block_m.mlp1.fc1.weight"].numpy().T
        assert np.array_equal(weights[node.input[place]], expected)
    assert len(onnx.load(plain).functions) == 0


def test_a_wrong_weight_shows(exported_nano: tuple[Poster, Path, Path], tmp_path: Path) -> None:
    """The depths' weights come in through the nodes, not from the definition."""
    _, _, fused = exported_nano
    model = onnx.load(fused)
    name = [n for n in model.graph.node if n.domain == DOMAIN][1].input[-1]
    tensor = next(t for t in model.graph.initializer if t.name == name)
    changed = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, name)
    tensor.CopyFrom(changed)
    onnx.save(model, str(tmp_path / "changed.onnx"))
    x = np.random.default_rng(0).normal(size=(2, 3, 48, 48)).astype(np.float32)
    assert np.abs(run(tmp_path / "changed.onnx", x) - run(fused, x)).max() > 1e-3


def test_the_plugins_graph_has_the_models_weights(exported_nano: tuple[Poster, Path, Path]) -> None:
    """From the file alone, as PyTorch's own would be packed; the rest of the graph reads what it read before."""
    nano, _, fused = exported_nano
    graph = plugin_graph(onnx.load(fused), precision="fp32").graph
    packed = [pack(s.state_dict(), heads=2, precision="fp32") for s in nano.pyramid_fuse.blocks]
    (node,) = [n for n in graph.node if n.domain == DOMAIN]
    weights, offsets = join_weights(packed)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert np.array_equal(stored[node.input[-1]], weights)
    assert list(next(a.ints for a in node.attribute if a.name == "offsets")) == offsets
    # PyTorch in the node's place, on the levels that the graph makes.
    with torch.no_grad():
        x = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
        before, after = cut_at(graph, node)
        levels = before.run(None, {"image": x.numpy()})
        first = [torch.from_numpy(v) for v in levels]
        for stage in nano.pyramid_fuse.blocks:
            first = stage(first)
        found = after.run(None, {node.output[0]: first[0][:, 0].numpy()})[0]
        expected = nano(x).numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def cut_at(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[ort.InferenceSession, ort.InferenceSession]:
    """What is before a node, from the picture to its levels, and what is after it."""
    place = list(graph.node).index(node)
    opset = [onnx.helper.make_opsetid("", 20)]
    value = onnx.helper.make_tensor_value_info
    levels = [value(n, onnx.TensorProto.FLOAT, None) for n in node.input[:3]]
    result = [value(node.output[0], onnx.TensorProto.FLOAT, None)]
    parts = (graph.node[:place], graph.input, levels), (graph.node[place + 1 :], result, graph.output)
    sessions = []
    for nodes, inputs, outputs in parts:
        part = onnx.helper.make_graph(nodes, "part", inputs, outputs, graph.initializer)
        model = onnx.helper.make_model(part, opset_imports=opset, ir_version=9)
        sessions.append(ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]))
    return sessions[0], sessions[1]


def test_nothing_of_this_machine_is_in_the_file(exported_nano: tuple[Poster, Path, Path]) -> None:
    data = exported_nano[2].read_bytes()
    for trace in (b"site-packages", b"stack_trace", b"pkg.torch", b"/poster_edge/", str(Path.cwd()).encode()):
        assert trace not in data, trace


class Tokens(nn.Module):
    """A pyramid on tokens cut from the picture, without backbones: quick to trace."""

    def __init__(self, *, with_depths: bool = True) -> None:
        super().__init__()
        config = replace(NANO, dims=(32,))
        torch.manual_seed(0)
        self.embed = nn.Linear(3 * 64, config.dims[0])
        self.fuse = PyramidFusion(config) if with_depths else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        # B x 3 x 48 x 48 -> B x 3 x 6 x 8 x 6 x 8 -> B x 36 x 192
        cut = image.unflatten(3, (6, 8)).unflatten(2, (6, 8)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        tokens = self.embed(cut)
        if isinstance(self.fuse, nn.Identity):
            return tokens[:, 0]
        return self.fuse(tokens, tokens * 2)


def test_untrained_weights_that_are_alike(tmp_path: Path) -> None:
    """All LayerNorms of a new model are equal, and the exporter writes them once."""
    fused = tmp_path / "fused.onnx"
    export_onnx(Tokens().eval(), 48, tmp_path / "plain.onnx", fused_to=(fused, 2))
    x = np.random.default_rng(0).normal(size=(2, 3, 48, 48)).astype(np.float32)
    assert np.abs(run(fused, x) - run(tmp_path / "plain.onnx", x)).max() < 1e-5
    assert sum(n.domain == DOMAIN for n in onnx.load(fused).graph.node) == 2


def test_a_model_without_depths_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PosterEdgeError, match="no cross-fusion depths"):
        export_onnx(Tokens(with_depths=False).eval(), 48, tmp_path / "m.onnx", fused_to=(tmp_path / "f.onnx", 2))
    assert not list(tmp_path.iterdir())


def test_tensorrt_rtx_builds_it(rtx: TensorRt, exported_nano: tuple[Poster, Path, Path]) -> None:
    """Through the definition in the file: no plugin is registered."""
    trt: Any = rtx.module
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    ok = parser.parse(exported_nano[2].read_bytes())
    assert ok, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    kinds = [network.get_layer(i).type.name for i in range(network.num_layers)]
    assert kinds.count("SOFTMAX") == 12, "2 depths x 3 levels x 2 streams"
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, 3, 48, 48), (4, 3, 48, 48), (16, 3, 48, 48))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    assert len(bytes(plan)) > 1_000_000
