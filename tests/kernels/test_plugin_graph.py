"""The plugin's graph and weights: one node for all depths, packed as the kernels read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from poster_edge.cli.kernels_graph import write_graph
from poster_edge.errors import PosterEdgeError, UnavailableError, UsageError
from poster_edge.export.cross_fusion_op import DOMAIN
from poster_edge.export.fp16 import to_fp16
from poster_edge.export.plugin_graph import plugin_graph
from poster_edge.kernels.pack import PackedDepth, pack
from poster_edge.kernels.plugin.weights import UNIT, join_weights, shape_attribute
from poster_edge.models.poster import Poster


def test_weights_are_where_the_offsets_say(depths: list[PackedDepth]) -> None:
    weights, offsets = join_weights(depths)
    data = weights.tobytes()
    wanted = [t for d in depths for t in d.tensors().values()]
    assert len(offsets) == len(wanted) == 15 * len(depths)
    for offset, tensor in zip(offsets, wanted, strict=True):
        expected = tensor.numpy().tobytes()
        assert data[UNIT * offset : UNIT * offset + len(expected)] == expected
    with pytest.raises(UsageError, match="at least one"):
        join_weights([])


def test_graph_has_one_node_with_the_packed_weights(
    fused: onnx.ModelProto, graph: onnx.ModelProto, depths: list[PackedDepth]
) -> None:
    (node,) = [n for n in graph.graph.node if n.domain == DOMAIN]
    weights, offsets = join_weights(depths)
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {
        "shape": shape_attribute(depths[0].shape),
        "precision": b"fp16",
        "offsets": offsets,
        "plugin_namespace": b"poster_edge",
        "plugin_version": b"1",
    }
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    assert np.array_equal(stored[node.input[3]], weights)
    assert not graph.functions
    assert not [name for name in stored if name.startswith("0.")], "the old weights are still in the file"


@pytest.mark.parametrize(("precision", "casts"), [("fp32", 1), ("w8a16", 4)])
def test_other_precisions(fused: onnx.ModelProto, nano: Poster, precision: str, casts: int) -> None:
    found = plugin_graph(fused, precision=precision).graph
    assert sum(n.op_type == "Cast" for n in found.node) == casts
    packed = [pack(s.state_dict(), heads=2, precision=precision) for s in nano.pyramid_fuse.blocks]
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in found.initializer}
    assert np.array_equal(stored["cross_fusion_weights"], join_weights(packed)[0])


def test_the_rest_can_become_fp16(graph: onnx.ModelProto) -> None:
    half = to_fp16(graph)
    (node,) = [n for n in half.graph.node if n.domain == DOMAIN]
    types = {t.name: t.data_type for t in half.graph.initializer}
    assert types[node.input[3]] == onnx.TensorProto.INT32
    assert types["classes"] == onnx.TensorProto.FLOAT16
    assert {n.attribute[0].i for n in half.graph.node if n.name.startswith("cross_fusion_cast")} == {10}


def changed(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.extend(nodes)
    return copy


def test_graphs_that_the_plugin_cannot_serve(fused: onnx.ModelProto, graph: onnx.ModelProto) -> None:
    with pytest.raises(PosterEdgeError, match="export it with --fused-op"):
        plugin_graph(graph)
    with pytest.raises(UsageError, match="expected one of fp32, fp16, w8a16"):
        plugin_graph(fused, precision="bf16")
    for name, problem in [
        ("m1", "the levels of cross_fusion_0 are read by others"),
        ("m2", "'m2' of the last depth is read"),
        ("l2", "peek reads more than the first token"),
        ("normed", "norm reads more than the first token"),
    ]:
        with pytest.raises(PosterEdgeError, match=problem):
            plugin_graph(changed(fused, onnx.helper.make_node("Identity", [name], ["seen"], name="peek")))


def test_a_bundle_without_fused_nodes(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"has no model\.fused-op\.onnx; export the model with --fused-op"):
        write_graph(Path("poster-nano"), precision="fp16", output=tmp_path / "x.onnx")
    (tmp_path / "x.onnx").touch()
    with pytest.raises(UsageError, match="exists"):
        write_graph(Path("poster-nano"), precision="fp16", output=tmp_path / "x.onnx")
