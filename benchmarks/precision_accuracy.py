"""Accuracy of a bundle in FP32, FP16 and INT8, for every calibration method and several numbers of images.

    python benchmarks/precision_accuracy.py --data FILE.npz [--model NAME]

Everything is judged on the whole validation split by the runners that ``run`` uses; calibration
images come from the training split.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from run_all import write

from poster_edge.calib.batches import CalibrationSet, from_faces
from poster_edge.calib.cache import from_histograms
from poster_edge.calib.collect import collect
from poster_edge.calib.gate import judge
from poster_edge.calib.qdq import quantise, tensors_to_calibrate
from poster_edge.calib.ranges import METHODS
from poster_edge.cli.eval_report import select
from poster_edge.cli.export_precision import KINDS
from poster_edge.config import DEFAULT_MODEL
from poster_edge.data.faces import load_faces
from poster_edge.export.fp16 import input_range, to_fp16
from poster_edge.files import write_atomic
from poster_edge.optional import available
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.choose import make_runner
from poster_edge.runtime.int8_sums import sums_int8_exactly
from poster_edge.runtime.manifest import MODEL_FILES

SIZES = (128, 512, 2048)


def logits(bundle: Bundle, precision: str, runtime: str, images: CalibrationSet) -> tuple[np.ndarray, str]:
    """Logits (N, C) and what computed them."""
    manifest = bundle.manifest
    with make_runner(bundle, runtime=runtime, precision=precision, device="cpu", threads=2) as runner:
        out = [
            runner.infer({manifest.input_name: b})[manifest.output_name]
            for b in images.batches(manifest.preprocess, 64)
        ]
        return np.concatenate(out), runner.description


def main() -> None:
    """Measure and write ``precision_accuracy.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    args = parser.parse_args()
    bundle = load_bundle(args.model)
    manifest, classes = bundle.manifest, bundle.manifest.classes
    model = onnx.load_from_string(bundle.read("model.onnx"))
    faces = load_faces(args.data)
    rows = select(faces, classes, "validation")
    held = CalibrationSet("validation", len(rows.indices), lambda i: faces.read(int(rows.indices[i])), None, ())
    clamp = input_range(manifest.preprocess.mean, manifest.preprocess.std)
    # OpenVINO takes the form with an FP16 rest only where its integer sums are exact; onnxruntime simulates it.
    judge_of_inputs = "openvino" if available("openvino") and sums_int8_exactly() else "onnxruntime"
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:

        def measure(file: str, graph: onnx.ModelProto, runtime: str, **about: Any) -> None:
            path = Path(folder) / file
            write_atomic(path, graph.SerializeToString())
            packed = write_bundle(
                Path(folder) / "candidate", replace(manifest, precision=MODEL_FILES[file][0]), {file: path}, force=True
            )
            found, description = logits(packed, MODEL_FILES[file][0], runtime, held)
            report = judge(
                reference, found, rows.labels, classes, temperatures=(manifest.temperature, manifest.temperature)
            )
            assert report.candidate is not None
            row = {
                "file": file,
                "runtime": description,
                **about,
                "accuracy": report.candidate["accuracy"],
                "macro_f1": report.candidate["macro_f1"],
                "accuracy_drop": report.accuracy_drop,
                "worst_class": report.worst_class,
                "flip_rate": report.flip_rate,
                "mean_kl": report.mean_kl,
                "passed": report.passed,
            }
            results.append(row)
            print(file, runtime, about, f"{row['accuracy']:.4f}", f"flips {report.flip_rate[0]:.4f}", flush=True)

        reference = logits(bundle, "fp32", "onnxruntime", held)[0]
        measure("model.onnx", model, "onnxruntime")
        measure("model.fp16.onnx", to_fp16(model, input_range=clamp), "onnxruntime")
        for size in SIZES:
            images = from_faces(faces, size, seed=0)
            ranges = from_histograms(
                collect(model, tensors_to_calibrate(model), images.batches(manifest.preprocess, 32), threads=2)
            )
            for method in METHODS:
                chosen = {t: r[method] for t, r in ranges.items()}
                both = quantise(model, chosen, placement="inputs-outputs", kinds=KINDS)
                about = {"method": method, "images": size}
                measure("model.int8.onnx", both, "onnxruntime", **about)
                if size == SIZES[1]:
                    narrow = quantise(model, chosen, placement="inputs", kinds=KINDS, fp16_scales=True)
                    measure("model.int8-inputs.onnx", to_fp16(narrow, input_range=clamp), judge_of_inputs, **about)
    write(
        "precision_accuracy.json",
        {"model": args.model, "data": args.data.name, "images": held.count, "results": results},
    )


if __name__ == "__main__":
    main()
