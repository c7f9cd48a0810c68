"""NVIDIA's own TensorRT-RTX parser and builder take every file that is written; no GPU is needed to build."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from poster_edge.calib.cache import from_histograms
from poster_edge.calib.collect import collect
from poster_edge.calib.qdq import quantise, tensors_to_calibrate
from poster_edge.data.preprocess import to_input
from poster_edge.export.fp16 import input_range, to_fp16
from poster_edge.runtime.bundle import load_bundle
from poster_edge.vision.samples import sample_crops

_LIBRARIES = ("libcudart.so.*", "libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")


@pytest.fixture(scope="module")
def trt() -> Any:
    """The bindings, with the libraries that the execution provider's wheel carries."""
    spec = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    if spec is None or spec.origin is None or importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        if os.environ.get("POSTER_EDGE_REQUIRE_RTX"):
            pytest.fail("POSTER_EDGE_REQUIRE_RTX is set, but TensorRT-RTX's builder is not installed")
        pytest.skip("needs TensorRT-RTX's builder: make rtx")
    folder = Path(spec.origin).parent
    for name in _LIBRARIES:
        ctypes.CDLL(str(next(folder.glob(name))), mode=ctypes.RTLD_GLOBAL)
    return importlib.import_module("tensorrt_rtx_bindings")


@pytest.fixture(scope="module")
def logger(trt: Any) -> Any:
    """One for all: the logger of the first builder is the one used by every later one."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.lines.append(message)

    return Logger()


@pytest.fixture(scope="module")
def graphs() -> dict[str, onnx.ModelProto]:
    """The packaged model in every form that export writes."""
    bundle = load_bundle("poster-nano")
    preprocess = bundle.manifest.preprocess
    model = onnx.load_from_string(bundle.read("model.onnx"))
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


def build(trt: Any, logger: Any, model: onnx.ModelProto, capability: str) -> tuple[bytes, dict[str, set[str]]]:
    """A plan for batches of 1 to 16, and the types that each kind of layer computes in."""
    logger.lines.clear()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    types: dict[str, set[str]] = {}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.num_outputs:
            types.setdefault(layer.type.name, set()).add(layer.get_output(0).dtype.name)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    image = network.get_input(0)
    profile.set_shape(image.name, *((n, *tuple(image.shape)[1:]) for n in (1, 4, 16)))
    config.add_optimization_profile(profile)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    plan = builder.build_serialized_network(network, config)
    return (b"" if plan is None else bytes(plan)), types


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "int8-inputs"])
def test_every_file_builds(trt: Any, logger: Any, graphs: dict[str, onnx.ModelProto], name: str) -> None:
    plan, types = build(trt, logger, graphs[name], "SM86")
    assert len(plan) > 1_000_000, logger.lines
    assert types["CONVOLUTION"] == types["MATRIX_MULTIPLY"] == {"HALF" if name in ("fp16", "int8-inputs") else "FLOAT"}
    assert ("QUANTIZE" in types) == name.startswith("int8")
    if "QUANTIZE" in types:
        assert types["QUANTIZE"] == {"INT8"}


@pytest.mark.parametrize("name", ["fp16", "int8-inputs"])
def test_builds_for_turing(trt: Any, logger: Any, graphs: dict[str, onnx.ModelProto], name: str) -> None:
    """Compute capability 7.5 has no FP32 matrix products in TensorRT-RTX: the rest must be FP16."""
    plan, _ = build(trt, logger, graphs[name], "SM75")
    assert plan, logger.lines


def test_an_fp32_rest_is_refused_for_turing(trt: Any, logger: Any, graphs: dict[str, onnx.ModelProto]) -> None:
    plan, _ = build(trt, logger, graphs["int8"], "SM75")
    assert not plan
    assert any("FP32 GEMM is not supported" in line for line in logger.lines)


def test_attention_stays_fusable(trt: Any, logger: Any, graphs: dict[str, onnx.ModelProto]) -> None:
    """The plan names its generated kernels; an undocumented format, so this is a hint, not a contract."""
    for name in ("fp16", "int8-inputs"):
        plan, _ = build(trt, logger, graphs[name], "SM86")
        softmaxes = sum(n.op_type == "Softmax" for n in graphs[name].graph.node)
        if b"[ONNX Layer" not in plan:
            pytest.skip("this version does not name layers in its plans")
        assert plan.count(b"_gemm_mha_v2") >= softmaxes, name


def test_numbers_survive_conversion(graphs: dict[str, onnx.ModelProto]) -> None:
    """The graphs built above compute the model, so that what is built is worth building."""
    import onnxruntime as ort

    preprocess = load_bundle("poster-nano").manifest.preprocess
    faces = to_input(sample_crops(preprocess), preprocess)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    logits = {
        name: ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
            None, {"image": faces}
        )[0]
        for name, m in graphs.items()
    }
    for name, found in logits.items():
        assert np.abs(found - logits["fp32"]).max() < 0.1 * np.abs(logits["fp32"]).max(), name
