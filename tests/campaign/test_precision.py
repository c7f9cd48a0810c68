"""Long checks of the lower precisions: ten thousand faces through FP16, full POSTER through NVIDIA's builder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from poster_edge.data.faces import load_faces
from poster_edge.data.preprocess import to_input
from poster_edge.export.fp16 import FP16_MAX, input_range, overflow_islands, to_fp16
from poster_edge.runtime.bundle import load_bundle

pytestmark = pytest.mark.campaign


def test_ten_thousand_faces_stay_far_from_fp16s_limit(shared: Path) -> None:
    """No tensor of the packaged model comes within a factor of eight of overflow, scaled faces included."""
    bundle = load_bundle("poster-nano")
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


def test_fp16_as_written_is_finite_on_adversarial_inputs(shared: Path) -> None:
    """In true FP16 arithmetic (ONNX's reference), which onnxruntime's CPU kernels do not use."""
    bundle = load_bundle("poster-nano")
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
