"""FER-VT's graph: equal to PyTorch at every batch, few plain operators, right in every precision."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from poster_edge.calib.cache import from_histograms
from poster_edge.calib.collect import collect
from poster_edge.calib.qdq import find_sites, quantise, tensors_to_calibrate
from poster_edge.export.engine import build_engine
from poster_edge.export.engine_report import verify_engine
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.fp16 import input_range, overflow_islands, to_fp16
from poster_edge.export.onnx import export_onnx
from poster_edge.export.tensorrt_api import RTX, TensorRt
from poster_edge.models.build import build_network
from poster_edge.models.config import CONFIGS
from poster_edge.models.network import Network


@pytest.fixture(scope="module")
def nano() -> Network:
    """Untrained, but every normalisation has statistics and scales of its own, so that nothing folds by luck."""
    torch.manual_seed(0)
    model = build_network(CONFIGS["fer-vt-nano"])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def path(nano: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(nano, 48, file)
    return file


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(0, 0.8, (count, 3, 48, 48)).clip(-1.6, 1.6).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": x})[0]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_equals_pytorch_at_any_batch(nano: Network, path: Path, batch: int) -> None:
    x = images(batch)
    with torch.no_grad():
        expected = nano(torch.from_numpy(x)).numpy()
    assert np.abs(run(onnx.load(path), x) - expected).max() < 1e-5 * np.abs(expected).max()


def test_operators_are_few_and_plain(path: Path) -> None:
    """Cells are made by reshape and transpose alone; a layer of the encoder is 24 operators at most."""
    model = onnx.load(path)
    kinds = Counter(n.op_type for n in model.graph.node)
    config = CONFIGS["fer-vt-nano"]
    assert kinds["LayerNormalization"] == 2 * config.depth + 2  # the embedding's and the last
    assert kinds["Gelu"] == config.depth
    assert kinds["Softmax"] == config.depth + 1
    # 11 of the trunk with its shortcuts, 2 score, 2 transform, 3 refine, 3 reduce.
    assert kinds["Conv"] == 1 + 8 + 2 + 2 + 2 + 3 + 3
    assert not kinds.keys() & {"BatchNormalization", "Einsum", "ScatterND", "If", "Loop", "Erf", "Where"}
    assert kinds["Gather"] <= 1  # the class token behind the encoder
    assert sum(kinds.values()) < 90 + 24 * config.depth


@pytest.fixture(scope="module")
def forms(path: Path) -> dict[str, onnx.ModelProto]:
    """The float32 graph and what export makes of it."""
    model, x = onnx.load(path), images(8)
    assert not overflow_islands(model, [x])
    ranges = {t: r["mse"] for t, r in from_histograms(collect(model, tensors_to_calibrate(model), [x])).items()}
    clamp = input_range((0.51,) * 3, (0.31,) * 3)
    return {
        "fp32": model,
        "fp16": to_fp16(model, input_range=clamp),
        "int8": quantise(model, ranges, placement="inputs-outputs"),
        "int8-inputs": to_fp16(quantise(model, ranges, placement="inputs", fp16_scales=True), input_range=clamp),
    }


def test_every_precision_computes_the_model(forms: dict[str, onnx.ModelProto]) -> None:
    x = images(8)
    expected = run(forms["fp32"], x)
    spread = np.abs(expected).max()
    error = {name: np.abs(run(form, x) - expected).max() / spread for name, form in forms.items()}
    assert 0 < error["fp16"] < 0.01
    assert 0 < error["int8"] < 0.2
    assert 0 < error["int8-inputs"] < 0.2
    kinds = Counter(site.kind for site in find_sites(forms["fp32"]))
    # The scores of the cells and two products a layer are left to the higher precision.
    assert kinds["attention"] == 1 + 2 * CONFIGS["fer-vt-nano"].depth
    assert sum(n.op_type == "QuantizeLinear" for n in forms["int8-inputs"].graph.node) >= 15


@pytest.mark.parametrize("form", ["fp32", "fp16", "int8-inputs"])
def test_tensorrt_rtx_builds_it(rtx: TensorRt, forms: dict[str, onnx.ModelProto], form: str) -> None:
    spec = EngineSpec(RTX, Profile(1, 4, 16), compute_capabilities=("8.6",))
    engine = build_engine(rtx, forms[form].SerializeToString(), spec)
    precision = form.partition("-")[0]
    report = verify_engine(rtx, engine, precision)
    assert len(engine.plan) > 100_000
    assert engine.warnings == ()
    found = report.counts()
    assert sum(found["convolution"].values()) == 21
    # The cells' scores and the products of the encoder's attention stay in FP16.
    other = {"fp16"} if precision == "int8" else set()
    assert set(found["matrix product"]) == {precision} | other
    assert found["convolution"].keys() <= {precision} | other
