"""CF-DAN's graph: equal to PyTorch at every batch, right in every precision; PCP is few plain operators."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from poster_edge.calib.cache import from_histograms
from poster_edge.calib.collect import collect
from poster_edge.calib.qdq import quantise, tensors_to_calibrate
from poster_edge.config import Preprocess
from poster_edge.data.preprocess import to_input
from poster_edge.export.engine import build_engine
from poster_edge.export.engine_report import verify_engine
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.fp16 import input_range, to_fp16
from poster_edge.export.onnx import export_onnx
from poster_edge.export.tensorrt_api import RTX, TensorRt
from poster_edge.models.build import build_network
from poster_edge.models.config import CONFIGS
from poster_edge.models.network import Network
from poster_edge.models.pcp import PCP, pcp_reference
from poster_edge.vision.samples import sample_crops


@pytest.fixture(scope="module")
def network() -> Network:
    """Random weights whose normalisations have statistics and scales of their own."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = build_network(CONFIGS["cf-dan-nano"])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def preprocess(network: Network) -> Preprocess:
    return Preprocess(size=network.config.input_size)


@pytest.fixture(scope="module")
def graphs(network: Network, preprocess: Preprocess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The network in every form that export writes."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = export_onnx(network, preprocess.size, path)
    faces = to_input(sample_crops(preprocess), preprocess)
    histograms = collect(model, tensors_to_calibrate(model), [faces])
    ranges = {t: r["mse"] for t, r in from_histograms(histograms).items()}
    clamp = input_range(preprocess.mean, preprocess.std)
    narrow = quantise(model, ranges, placement="inputs", fp16_scales=True)
    return {
        "fp32": model,
        "fp16": to_fp16(model, input_range=clamp),
        "int8": quantise(model, ranges, placement="inputs-outputs"),
        "int8-inputs": to_fp16(narrow, input_range=clamp),
    }


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_equals_pytorch_at_any_batch(network: Network, graphs: dict[str, onnx.ModelProto]) -> None:
    runner, size = session(graphs["fp32"]), network.config.input_size
    for batch in (1, 3, 8):
        x = np.random.default_rng(batch).normal(size=(batch, 3, size, size)).astype(np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(x)).numpy()
        found = runner.run(["logits"], {"image": x})[0]
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_lower_precisions_compute_the_model(graphs: dict[str, onnx.ModelProto], preprocess: Preprocess) -> None:
    faces = to_input(sample_crops(preprocess), preprocess)
    logits = {name: session(m).run(None, {"image": faces})[0] for name, m in graphs.items()}
    # What tells one face from another must survive, not only what all faces share.
    spread = np.abs(logits["fp32"] - logits["fp32"].mean(axis=0)).max()
    for name, share in (("fp16", 0.01), ("int8", 0.2), ("int8-inputs", 0.2)):
        assert np.abs(logits[name] - logits["fp32"]).max() < share * spread, name


@pytest.mark.parametrize("form", ["fp32", "fp16", "int8-inputs"])
def test_tensorrt_rtx_builds_it(rtx: TensorRt, graphs: dict[str, onnx.ModelProto], form: str) -> None:
    spec = EngineSpec(RTX, Profile(1, 4, 16), compute_capabilities=("8.6",))
    engine = build_engine(rtx, graphs[form].SerializeToString(), spec)
    precision = form.partition("-")[0]
    report = verify_engine(rtx, engine, precision)
    assert len(engine.plan) > 100_000
    found = report.counts()
    # 9 of the trunk with its shortcuts, 2 for each distillation: 3 spatial (the first layer's is one), 4 channel.
    assert sum(found["convolution"].values()) == 9 + 2 * 3 + 2 * 4
    # The products of attention stay in FP16.
    other = {"fp16"} if precision == "int8" else set()
    assert set(found["matrix product"]) == {precision} | other
    assert found["convolution"].keys() <= {precision} | other
    if form == "fp16" and b"__myl_" in engine.plan:
        # Names of generated kernels, an undocumented format: PCP is computed within the product before it.
        assert re.search(rb"__myl_FcAddMaxMinSub\w*Max\w*MulAdd", engine.plan)


class Alone(nn.Module):
    """One activation on an image."""

    def __init__(self) -> None:
        super().__init__()
        self.act = PCP()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x)


@pytest.fixture(scope="module")
def activation(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return export_onnx(Alone(), 16, tmp_path_factory.mktemp("pcp") / "pcp.onnx")


def test_pcp_is_few_nodes_without_branches(activation: onnx.ModelProto) -> None:
    kinds = [n.op_type for n in activation.graph.node]
    assert len(kinds) == 15, kinds
    assert set(kinds) == {"Clip", "LeakyRelu", "Mul", "Add", "Sub"}


@pytest.mark.parametrize(("form", "atol"), [("fp32", 5e-7), ("fp16", 2e-3)])
def test_pcp_survives_export(activation: onnx.ModelProto, form: str, atol: float) -> None:
    x = np.linspace(-1.5, 1.5, 3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16)
    model = activation if form == "fp32" else to_fp16(activation)
    found = session(model).run(None, {"image": x})[0]
    expected = pcp_reference(torch.from_numpy(x).double()).numpy()
    assert np.abs(found - expected).max() < atol


def test_the_file_of_a_network_is_complete(graphs: dict[str, onnx.ModelProto], network: Network) -> None:
    """No BatchNorm is left, no weight is missing, none is there twice."""
    written = sum(int(np.prod(t.dims)) for t in graphs["fp32"].graph.initializer)
    total = sum(p.numel() for p in network.parameters())
    assert 0.97 * total < written < 1.01 * total
    assert {o.domain for o in graphs["fp32"].opset_import} == {""}
