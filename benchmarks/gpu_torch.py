"""``--runtime torch`` on a GPU: poster-nano against float64, with each kind of kernels and CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gpu_common import Row, relative

from poster_edge.data.preprocess import to_input
from poster_edge.models.checkpoint import load_model
from poster_edge.runtime.bundle import WEIGHTS_FILE, Bundle, load_bundle
from poster_edge.runtime.torch_runner import TorchRunner
from poster_edge.vision.samples import sample_crops

#: Largest relative L2 error of the logits; INT8 weights have a bar of their own.
BARS = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 4e-2, "int8": 2e-2}
#: Precision, kernels, whether CUDA graphs replay them.
GPU = [
    ("fp32", "sdpa", False),
    ("fp32", "sdpa", True),
    ("fp16", "auto", True),
    ("fp16", "triton", False),
    ("fp16", "triton", True),
    ("fp16", "triton:int8", True),
    ("bf16", "triton", True),
]
CPU = [("fp32", "sdpa", False), ("bf16", "eager", False)]
#: Each size comes twice, so that graphs are replayed and not captured only.
BATCHES = (1, 3, 8, 1, 3)


@torch.no_grad()
def torch_rows(device: str) -> Iterator[Row]:
    """A row for each way to run it: the largest error over all batches."""
    bundle = load_bundle("poster-nano")
    crops = sample_crops(bundle.manifest.preprocess)
    images = to_input([crops[i % len(crops)] for i in range(max(BATCHES))], bundle.manifest.preprocess)
    model, _ = load_model(Path(bundle.folder) / WEIGHTS_FILE)
    expected = model.double()(torch.from_numpy(images).double())
    for precision, kernels, graph in GPU if device == "cuda" else CPU:
        yield _row(bundle, images, expected, (precision, kernels, graph), device)


def _row(bundle: Bundle, images: np.ndarray, expected: torch.Tensor, way: tuple[str, str, bool], device: str) -> Row:
    precision, kernels, graph = way
    what = f"runtime torch, kernels {kernels}{', CUDA graph' if graph else ''}"
    errors = []
    options = {"precision": precision, "kernels": kernels, "cuda_graph": graph}
    with TorchRunner(bundle, device="cuda:0" if device == "cuda" else "cpu", **options) as runner:  # type: ignore[arg-type]
        for count in BATCHES:
            found = torch.from_numpy(runner.infer({"image": images[:count]})["logits"])
            errors.append(relative(found, expected[:count]))
        # What was to be "auto" on a GPU in FP16 must not be PyTorch's own.
        served = device != "cuda" or kernels != "auto" or "kernels triton" in runner.description
    bar = BARS["int8" if kernels.endswith(":int8") else precision]
    return {"what": what, "precision": precision, "error": max(errors), "ok": served and max(errors) <= bar}
