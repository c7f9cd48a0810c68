"""Long checks of the profile: operations of every model's ONNX file, and the layers of INT8 and fused graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from poster_edge.bench.layers import profile_layers
from poster_edge.bench.layers_graph import read_graph
from poster_edge.export.onnx import export_onnx
from poster_edge.models.build import build_network
from poster_edge.models.config import CONFIGS
from poster_edge.models.registry import REGISTRY
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.choose import make_runner

pytestmark = pytest.mark.campaign


@pytest.mark.parametrize("name", REGISTRY)
def test_onnx_of_every_model_has_the_registrys_operations(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    export_onnx(build_network(CONFIGS[name]).eval(), CONFIGS[name].input_size, path)
    for batch in (1, 2):
        found = read_graph(path.read_bytes(), batch=batch)
        flops = found.total().flops["fp32"]
        # Both streams of CF-DAN's first layer begin with the same products; the exporter keeps one of each.
        least = 0.995 if name.startswith("cf-dan") else 1
        assert least * batch * REGISTRY[name].flops <= flops <= batch * REGISTRY[name].flops
        assert not found.notes


def test_a_graph_with_one_node_for_each_depth_counts_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, fused = tmp_path / "model.onnx", tmp_path / "fused.onnx"
    heads = CONFIGS["poster-nano"].heads
    export_onnx(build_network(CONFIGS["poster-nano"]).eval(), 48, plain, fused_to=(fused, heads))
    whole = read_graph(fused.read_bytes(), batch=1).total()
    assert whole.total_flops == REGISTRY["poster-nano"].flops


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_layers_of_lower_precisions_add_up(runtime: str, precision: str, lower: Path) -> None:
    bundle = load_bundle(lower)
    runner = make_runner(bundle, runtime=runtime, precision=precision, device="cpu", threads=1)
    feed = {"image": np.random.default_rng(0).normal(0, 0.5, (1, 3, 48, 48)).astype(np.float32)}
    found = profile_layers(runner, bundle.read(runner.file), feed, runs=3)
    flops: dict[str, int] = {}
    for layer in found.layers:
        for kind, count in layer.cost.flops.items():
            flops[kind] = flops.get(kind, 0) + count
    assert sum(flops.values()) == REGISTRY["poster-nano"].flops
    assert precision in flops
    # Products that were quantised are most of the work.
    assert precision == "fp16" or flops["int8"] > 0.8 * REGISTRY["poster-nano"].flops


@pytest.fixture(scope="module")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """poster-nano in FP16 and INT8."""
    from click.testing import CliRunner

    from poster_edge.cli.export import command

    folder = tmp_path_factory.mktemp("lower") / "bundle"
    done = CliRunner().invoke(command, ["--int8", "--half", "--no-gate", "-o", str(folder)])
    assert done.exit_code == 0, done.output
    return folder
