"""FP16 on ten thousand faces and on inputs scaled to break it: largest values, results that are not finite, classes.

    python benchmarks/fp16_faces.py --data FILE.npz [--model poster-nano] [--count 10000]

Values are looked for in float32, tensor by tensor; then the FP16 file itself runs in onnxruntime and, where it
can be had, in OpenVINO, which is asked for true FP16, far slower as that is (its description says f16 then).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from run_all import write

from poster_edge.config import DEFAULT_MODEL
from poster_edge.data.faces import FaceSet, load_faces
from poster_edge.data.preprocess import to_input
from poster_edge.export.fp16 import FP16_MAX, HEADROOM, input_range, to_fp16, value_peaks
from poster_edge.files import write_atomic
from poster_edge.optional import available
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.openvino_runner import OpenVinoRunner
from poster_edge.runtime.ort_runner import OrtRunner

BATCH = 50
#: What is done to a batch of normalised faces -> how; every kind meets every twentieth batch.
ATTACKS = ("times 100", "times 10,000", "black and white", "largest number", "noise")


def attacked(batch: np.ndarray, kind: str, limits: tuple[float, float]) -> np.ndarray:
    """The same faces, scaled or replaced by what no camera yields."""
    rng = np.random.default_rng(len(kind))
    changed = {
        "times 100": lambda: 100 * batch,
        "times 10,000": lambda: 1e4 * batch,
        "black and white": lambda: np.where(rng.random(batch.shape) < 0.5, *limits),
        "largest number": lambda: np.sign(batch) * np.finfo(np.float32).max,
        "noise": lambda: rng.normal(0, 1e4, batch.shape),
    }
    return changed[kind]().astype(np.float32)


def batches(faces: FaceSet, rows: np.ndarray, bundle: Bundle) -> Iterator[tuple[str, np.ndarray]]:
    """Kind ("faces" or one of ATTACKS) and images (N, 3, S, S)."""
    preprocess = bundle.manifest.preprocess
    limits = input_range(preprocess.mean, preprocess.std)
    for start in range(0, len(rows), BATCH):
        batch = to_input([faces.read(int(i)) for i in rows[start : start + BATCH]], preprocess)
        yield "faces", batch
        if start % (20 * BATCH) == 0:
            for kind in ATTACKS:
                yield kind, attacked(batch, kind, limits)


def largest(model: onnx.ModelProto, faces: FaceSet, rows: np.ndarray, bundle: Bundle) -> list[dict[str, Any]]:
    """The ten largest tensors in float32, behind the clamp that the FP16 file has at its input."""
    limits = input_range(bundle.manifest.preprocess.mean, bundle.manifest.preprocess.std)
    clamped = (images.clip(*limits) for _, images in batches(faces, rows, bundle))
    peaks = sorted(value_peaks(model, clamped).items(), key=lambda item: -item[1])
    return [{"tensor": name, "largest": peak, "times_below_limit": FP16_MAX / peak} for name, peak in peaks[:10]]


def run(bundle: Bundle, half: Bundle, runtime: str, faces: FaceSet, rows: np.ndarray) -> dict[str, Any]:
    """The FP16 file beside the float32 one in one runtime."""
    counts = {kind: {"images": 0, "not_finite": 0, "other_class": 0} for kind in ("faces", *ATTACKS)}
    limits = input_range(bundle.manifest.preprocess.mean, bundle.manifest.preprocess.std)
    feed, out = bundle.manifest.input_name, bundle.manifest.output_name
    error = 0.0
    with (
        OrtRunner(bundle, device="cpu", threads=2) as reference,
        (
            OpenVinoRunner(half, precision="fp16", threads=2, floats="f16")
            if runtime == "openvino"
            else OrtRunner(half, precision="fp16", device="cpu", threads=2)
        ) as runner,
    ):
        for kind, images in batches(faces, rows, bundle):
            # float32 has no clamp of its own: it is shown what the FP16 file's lets through.
            expected = reference.infer({feed: images.clip(*limits)})[out]
            found = runner.infer({feed: images})[out]
            seen = counts[kind]
            seen["images"] += len(images)
            seen["not_finite"] += int((~np.isfinite(found).all(axis=1)).sum())
            seen["other_class"] += int((found.argmax(1) != expected.argmax(1)).sum())
            error = max(error, float(np.abs(found - expected).max()) if kind == "faces" else 0.0)
        return {"runtime": runner.description, "largest_error_on_faces": error, "by_kind": counts}


def main() -> None:
    """Measure and write ``fp16_faces_NAME.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--count", type=int, default=10_000)
    args = parser.parse_args()
    report = measure(load_bundle(args.model), args.data, args.count)
    for result in report["results"]:
        print(result, flush=True)
    write(f"fp16_faces_{report['model']}.json", report)


def measure(bundle: Bundle, data: Path, count: int) -> dict[str, Any]:
    """All of it, for one model."""
    faces, preprocess = load_faces(data), bundle.manifest.preprocess
    rows = np.random.default_rng(0).permutation(len(faces))[:count]
    model = onnx.load_from_string(bundle.read("model.onnx"))
    limits = input_range(preprocess.mean, preprocess.std)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.fp16.onnx"
        write_atomic(path, to_fp16(model, input_range=limits).SerializeToString())
        half = write_bundle(Path(folder) / "half", bundle.manifest, {path.name: path})
        runtimes = [r for r in ("onnxruntime", "openvino") if r == "onnxruntime" or available(r)]
        return {
            "model": bundle.manifest.model,
            "data": data.name,
            "faces": len(rows),
            "headroom_asked": HEADROOM,
            "largest": largest(model, faces, rows, bundle),
            "results": [run(bundle, half, runtime, faces, rows) for runtime in runtimes],
        }


if __name__ == "__main__":
    main()
