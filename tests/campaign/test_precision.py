"""Long checks of the lower precisions: ten thousand faces through FP16, every model in FP16 and INT8 with the gate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from poster_edge.calib.qdq import find_sites
from poster_edge.data.faces import load_faces
from poster_edge.data.preprocess import to_input
from poster_edge.export.engine import build_engine
from poster_edge.export.engine_report import verify_engine
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.fp16 import FP16_MAX, input_range, overflow_islands, to_fp16
from poster_edge.export.tensorrt_api import RTX, TensorRt
from poster_edge.optional import available
from poster_edge.runtime.bundle import load_bundle, write_bundle, zoo_names
from poster_edge.runtime.int8_sums import has_flag
from poster_edge.runtime.openvino_runner import OpenVinoRunner

pytestmark = pytest.mark.campaign


@pytest.mark.parametrize("name", zoo_names())
def test_ten_thousand_faces_stay_far_from_fp16s_limit(name: str, shared: Path) -> None:
    """No tensor of a packaged model comes within a factor of eight of overflow, scaled faces included."""
    bundle = load_bundle(name)
    preprocess = bundle.manifest.preprocess
    faces = load_faces(shared / "data" / "fer2013_train_valid.npz")
    rows = np.random.default_rng(0).permutation(len(faces))[:10_000]
    low, high = input_range(preprocess.mean, preprocess.std)

    def batches() -> object:
        for start in range(0, len(rows), 50):
            batch = to_input([faces.read(int(i)) for i in rows[start : start + 50]], preprocess)
            yield batch
            if start % 1000 == 0:
                # What the clamp lets through at most: stark black and white, faces scaled until they saturate.
                yield (100 * batch).clip(low, high)
                yield np.where(np.random.default_rng(start).random(batch.shape) < 0.5, low, high).astype(np.float32)

    model = onnx.load_from_string(bundle.read("model.onnx"))
    assert overflow_islands(model, batches()) == {}


@pytest.mark.parametrize("name", zoo_names())
def test_fp16_as_written_is_finite_on_adversarial_inputs(name: str, shared: Path) -> None:
    """In true FP16 arithmetic (ONNX's reference), which onnxruntime's CPU kernels do not use."""
    bundle = load_bundle(name)
    preprocess = bundle.manifest.preprocess
    faces = load_faces(shared / "data" / "fer2013_train_valid.npz")
    batch = to_input([faces.read(i) for i in range(4)], preprocess)
    half = to_fp16(
        onnx.load_from_string(bundle.read("model.onnx")), input_range=input_range(preprocess.mean, preprocess.std)
    )
    evaluator = ReferenceEvaluator(half)
    noise = np.random.default_rng(0).normal(0, 1e4, batch.shape).astype(np.float32)
    for image in (batch, 1e3 * batch, FP16_MAX * np.sign(batch), noise):
        assert np.isfinite(evaluator.run(None, {"image": image})[0]).all()


@pytest.mark.parametrize("name", zoo_names())
def test_ten_thousand_faces_in_true_fp16(name: str, shared: Path, tmp_path: Path) -> None:
    """OpenVINO in f16, which it has on CPUs with AVX512-FP16 only; elsewhere it would be f32 and prove nothing."""
    if not available("openvino") or not has_flag("avx512_fp16"):
        pytest.skip("needs OpenVINO and a CPU with AVX512-FP16")
    bundle = load_bundle(name)
    preprocess = bundle.manifest.preprocess
    limits = input_range(preprocess.mean, preprocess.std)
    half = to_fp16(onnx.load_from_string(bundle.read("model.onnx")), input_range=limits)
    onnx.save(half, tmp_path / "model.fp16.onnx")
    packed = write_bundle(tmp_path / "half", bundle.manifest, {"model.fp16.onnx": tmp_path / "model.fp16.onnx"})
    faces = load_faces(shared / "data" / "fer2013_train_valid.npz")
    rows = np.random.default_rng(0).permutation(len(faces))[:10_000]
    with OpenVinoRunner(packed, precision="fp16", floats="f16") as runner:
        assert runner.description.endswith("(CPU, f16)")
        for start in range(0, len(rows), 50):
            batch = to_input([faces.read(int(i)) for i in rows[start : start + 50]], preprocess)
            for images in (batch, *([1e4 * batch] if start % 1000 == 0 else [])):
                assert np.isfinite(runner.infer({"image": images})["logits"]).all()


MODELS = ("fer-vt-nano", "cf-dan-nano", "poster-t", "poster-s", "poster", "fer-vt", "cf-dan")


@pytest.fixture(scope="module", params=MODELS)
def lowered(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights in every precision, through the gate (agreement with FP32)."""
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    words = ["export", "--model", request.param, "--random-weights", "--int8", "--half", "--calib", shared / "media"]
    command = [sys.executable, "-m", "poster_edge", *words, "-o", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_model_passes_the_gate(lowered: Path) -> None:
    gate = load_bundle(str(lowered)).manifest.gate
    assert gate is not None
    assert gate["passed"]
    assert set(gate["models"]) == {"model.fp16.onnx", "model.int8.onnx", "model.int8-inputs.onnx"}
    # Random weights leave faces near a border between classes: some layers may go back to float, most may not.
    model = onnx.load_from_string(load_bundle(str(lowered)).read("model.onnx"))
    layers = [site for site in find_sites(model) if site.kind in ("conv", "linear")]
    assert all(3 * len(report["restored"]) <= len(layers) for report in gate["models"].values())


@pytest.mark.parametrize("capability", ["7.5", "8.6"])
def test_every_model_builds(rtx: TensorRt, lowered: Path, capability: str) -> None:
    bundle = load_bundle(str(lowered))
    for file, precision in (("model.fp16.onnx", "fp16"), ("model.int8-inputs.onnx", "int8")):
        spec = EngineSpec(RTX, Profile(1, 4, 16), compute_capabilities=(capability,))
        verify_engine(rtx, build_engine(rtx, bundle.read(file), spec), precision)
