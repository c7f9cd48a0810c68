"""onnxruntime's execution providers against its CPU kernels: poster-nano's logits, FP32 and FP16."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.data.preprocess import to_input
from poster_edge.errors import UnavailableError
from poster_edge.optional import available
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.ort_runner import OrtRunner
from poster_edge.runtime.providers import PROVIDERS, missing
from poster_edge.vision.samples import sample_crops

#: Largest relative L2 error of the logits; TensorRT may add FP32's products in TF32.
BARS = {("cuda", "fp32"): 1e-4, ("tensorrt", "fp32"): 5e-3, ("tensorrt-rtx", "fp32"): 5e-3, ("cpu", "fp32"): 1e-5}
_FP16_BAR = 1e-2
#: One image, an odd number, and more than an engine's largest batch.
_BATCHES = (1, 5, 37)


def provider_rows(*, cpu: bool) -> list[dict[str, Any]]:
    """A row for each provider, precision and batch; one that cannot be checked here says why.

    Args:
        cpu: compare the CPU's kernels on one thread with themselves, to show that the check works.
    """
    if not available("onnxruntime"):
        return [_row("onnxruntime", "", "not checked: not installed", ok=True)]
    kinds = [k for k in PROVIDERS if (k == "cpu") == cpu]
    with tempfile.TemporaryDirectory() as scratch:
        bundle = _with_fp16(load_bundle("poster-nano"), Path(scratch))
        crops = sample_crops(bundle.manifest.preprocess)
        images = to_input([crops[i % len(crops)] for i in range(max(_BATCHES))], bundle.manifest.preprocess)
        with OrtRunner(bundle, device="cpu") as reference:
            expected = reference.infer({"image": images})["logits"]
        return [row for kind in kinds for row in _provider(bundle, kind, images, expected)]


def _provider(
    bundle: Bundle, kind: str, images: NDArray[np.float32], expected: NDArray[np.float32]
) -> list[dict[str, Any]]:
    what = f"onnxruntime {PROVIDERS[kind].label}"
    if lack := missing(PROVIDERS[kind]):
        return [_row(what, "", f"not checked: {lack[0]}", ok=True)]
    rows = []
    for precision in ("fp32", "fp16"):
        if f"model.{precision}.onnx" not in bundle.manifest.artefacts and precision != "fp32":
            continue
        try:
            with OrtRunner(bundle, precision=precision, device=kind, threads=1 if kind == "cpu" else None) as runner:
                for count in _BATCHES:
                    found = runner.infer({"image": images[:count]})["logits"]
                    error = float(np.linalg.norm(found - expected[:count]) / np.linalg.norm(expected[:count]))
                    bar = _FP16_BAR if precision == "fp16" else BARS[kind, "fp32"]
                    rows.append(_row(f"{what} x{count}", precision, error, ok=error <= bar))
        except UnavailableError as error:
            # Asked for, nothing seen to be missing, and still refused: somebody should look at it.
            rows.append(_row(what, precision, str(error), ok=False))
    return rows


def _row(what: str, precision: str, error: float | str, *, ok: bool) -> dict[str, Any]:
    return {"what": what, "precision": precision, "error": error, "ok": ok}


def _with_fp16(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle with an FP16 model, where ``onnx`` is there to make one."""
    if not available("onnx"):
        return bundle
    import onnx

    from poster_edge.export.fp16 import input_range, to_fp16

    settings = bundle.manifest.preprocess
    model = onnx.load_from_string(bundle.read("model.onnx"))
    half = to_fp16(model, input_range=input_range(settings.mean, settings.std))
    files = {"model.onnx": bundle.folder / "model.onnx", "model.fp16.onnx": folder / "half.onnx"}
    files["model.fp16.onnx"].write_bytes(half.SerializeToString())
    return write_bundle(folder / "bundle", bundle.manifest, files)
