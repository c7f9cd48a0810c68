"""The TensorRT runner on a real GPU against onnxruntime on the CPU: numbers, graphs, order, times."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from gpu_common import attempt
from numpy.typing import NDArray

from poster_edge.data.preprocess import to_input
from poster_edge.export.engine_plugin import PluginLibrary
from poster_edge.export.tensorrt_api import FLAVOURS, installed
from poster_edge.runtime.bundle import Bundle, load_bundle
from poster_edge.runtime.trt_runner import TensorRtRunner
from poster_edge.vision.samples import sample_crops

ROOT = Path(__file__).resolve().parent.parent
#: Largest relative L2 error of the logits against onnxruntime with the same file; TensorRT may use TF32 for FP32.
BARS = {"fp32": 5e-3, "fp16": 2e-2, "int8": 1e-1}
BATCHES = (1, 3, 8, 11)


def runner_rows(out: Path) -> Iterator[dict[str, Any]]:
    """The runner's own work, then a row per flavour, precision and batch where TensorRT is there."""
    yield from own_work()
    there = [f for f in FLAVOURS if installed(f)]
    if not there:
        note = "not checked: neither TensorRT nor TensorRT-RTX is installed"
        yield {"what": "TensorRT, the runner", "ok": None, "note": note}
        return
    bundle = quantised(out / "gpu-bundle")
    for flavour in there:
        for precision in BARS:
            # Whatever TensorRT raises is one row, and the other precisions are still tried.
            yield from attempt(
                f"{flavour}, the runner",
                partial(compare, bundle, flavour, precision),
                precision=precision,
            )


def own_work() -> list[dict[str, Any]]:
    """What the runner does besides calling TensorRT; a row too where it cannot be done."""
    from gpu_runner import stand_in_rows

    rows: list[dict[str, Any]] = []
    try:
        rows.extend(stand_in_rows())
    except Exception as error:  # whatever a driver raises is one row
        said = f"{type(error).__name__}: {error}"
        rows.append({"what": "runner on a stand-in engine", "error": float("nan"), "ok": False, "note": said})
    return rows


def quantised(folder: Path) -> Bundle:
    """poster-nano in every precision, made as a user would."""
    if not folder.exists():
        command = [sys.executable, "-m", "poster_edge", "export", "--int8", "--half", "-o", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True)
    return load_bundle(folder)


def with_plugin(folder: Path) -> Bundle:
    """poster-nano with the graph for the TensorRT plugin, made as a user would."""
    for words in (["export", "--fused-op", "-o", str(folder)], ["kernels", "graph", str(folder)]):
        subprocess.run([sys.executable, "-m", "poster_edge", *words], cwd=ROOT, check=True)
    return load_bundle(folder)


def compare(
    bundle: Bundle, flavour: str, precision: str, plugin: PluginLibrary | None = None
) -> Iterator[dict[str, Any]]:
    """Errors against onnxruntime for batches that are run alone, in a graph, split and side by side."""
    preprocess = bundle.manifest.preprocess
    faces = to_input(sample_crops(preprocess), preprocess)
    with TensorRtRunner(bundle, flavour=flavour, precision=precision, plugin=plugin, notify=print) as runner:
        # The file that TensorRT was built from, not the form that onnxruntime would be given; it knows no plugin.
        session = reference(bundle.read("model.onnx" if plugin else runner.file))
        for batch in BATCHES:
            # (faces, 3, S, S) -> (batch, 3, S, S), no two rows alike
            shade = np.arange(batch, dtype=np.float32)[:, None, None, None] / 64
            images = faces[np.arange(batch) % len(faces)] + shade
            (expected,) = session.run(None, {"image": images})
            found = [runner.infer({"image": images})["logits"] for _ in range(4)]
            pending = [runner.submit({"image": i}) for i in (images[::-1], images)]
            backwards, forwards = (p.result()["logits"] for p in pending)
            error = max(relative(f, expected) for f in (*found, forwards, backwards[::-1]))
            times = sorted(latencies_ms(runner, images))
            yield {
                "what": f"{runner.description} batch {batch}",
                "precision": precision,
                "error": error,
                "ok": error <= BARS[precision],
                "p50_ms": statistics.median(times),
                "p99_ms": times[int(0.99 * (len(times) - 1))],
                "graphs": " ".join(str(n) for n, graph in runner.graphs.items() if graph) or "none",
            }


def reference(onnx: bytes) -> ort.InferenceSession:
    """onnxruntime on the CPU, with exact INT8 sums."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Relative L2 error."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def latencies_ms(runner: TensorRtRunner, images: NDArray[np.float32], *, runs: int = 300) -> list[float]:
    """Times of single calls, copies included, after those that came before."""
    out = []
    for _ in range(runs):
        began = time.perf_counter()
        runner.infer({"image": images})
        out.append(1e3 * (time.perf_counter() - began))
    return out
