"""Whether attention's own products pay in INT8: latency and error with and without, in turns in one run.

    python benchmarks/precision_attention.py --bundle FOLDER|NAME [--data FILE.npz] [--threads 2] [--rounds 20]

The bundle brings its ranges (calibration.json).  Errors are those of the logits against float32 in the same
runtime, on 512 validation faces of --data, else on views of the packaged photos.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from run_all import write

from poster_edge.calib.cache import FILE_NAME, parse_calibration
from poster_edge.calib.qdq import find_sites, quantise
from poster_edge.data.faces import load_faces
from poster_edge.data.preprocess import to_input
from poster_edge.export.fp16 import input_range, to_fp16
from poster_edge.files import write_atomic
from poster_edge.optional import available
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.choose import make_runner
from poster_edge.runtime.manifest import MODEL_FILES
from poster_edge.runtime.runner import Runner
from poster_edge.runtime.timing import interleaved
from poster_edge.vision.samples import sample_crops

FACES, BATCH = 512, 32
#: Runtime -> the form of INT8 that it takes.
FORMS = {"onnxruntime": "model.int8.onnx", "openvino": "model.int8-inputs.onnx"}
KINDS = {"float": ("conv", "linear"), "INT8": ("conv", "linear", "attention")}


def quantised(bundle: Bundle, model: onnx.ModelProto, file: str, kinds: tuple[str, ...]) -> onnx.ModelProto:
    """One form of INT8, as ``export`` writes it but for the kinds."""
    ranges = parse_calibration(bundle.read(FILE_NAME), FILE_NAME).of("mse")
    placement = MODEL_FILES[file][1]
    narrow = placement == "inputs"
    graph = quantise(model, ranges, placement=placement, kinds=kinds, fp16_scales=narrow)
    clamp = input_range(bundle.manifest.preprocess.mean, bundle.manifest.preprocess.std)
    return to_fp16(graph, input_range=clamp) if narrow else graph


def faces(bundle: Bundle, data: Path | None) -> np.ndarray:
    """Images (N, 3, S, S) on which errors are measured."""
    if data is None:
        return to_input(sample_crops(bundle.manifest.preprocess), bundle.manifest.preprocess)
    found = load_faces(data)
    rows = found.indices("validation")[:FACES]
    return to_input([found.read(int(i)) for i in rows], bundle.manifest.preprocess)


def opened(bundle: Bundle, runtime: str, precision: str, threads: int) -> Runner:
    """A runner on the CPU."""
    return make_runner(bundle, runtime=runtime, precision=precision, device="cpu", threads=threads)


def logits(runner: Runner, bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """Logits (N, C)."""
    feed, out = bundle.manifest.input_name, bundle.manifest.output_name
    return np.concatenate(
        [runner.infer({feed: images[i : i + BATCH]})[out] for i in range(0, len(images), BATCH)],
    )


def main() -> None:
    """Measure and write ``precision_attention_NAME.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    bundle = load_bundle(args.bundle)
    model = onnx.load_from_string(bundle.read("model.onnx"))
    images = faces(bundle, args.data)
    load = os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runners: dict[tuple[str, str], Runner] = {}
        for runtime, file in FORMS.items():
            if not available(runtime):
                continue
            runners[runtime, "fp32"] = stack.enter_context(opened(bundle, runtime, "fp32", args.threads))
            for name, kinds in KINDS.items():
                path = folder / file
                write_atomic(path, quantised(bundle, model, file, kinds).SerializeToString())
                manifest = replace(bundle.manifest, precision="int8")
                packed = write_bundle(folder / f"{runtime}-{name}", manifest, {file: path})
                runners[runtime, name] = stack.enter_context(opened(packed, runtime, "int8", args.threads))
        times: dict[int, dict[str, np.ndarray]] = {}
        for batch in (1, 8):
            calls = {
                f"{runtime} {name}": lambda r=runner, b=batch: r.infer({bundle.manifest.input_name: images[:b]})
                for (runtime, name), runner in runners.items()
            }
            times[batch] = interleaved(calls, rounds=args.rounds, budget_s=180)
        for (runtime, name), runner in runners.items():
            reference, found = (logits(runners[runtime, n], bundle, images) for n in ("fp32", name))
            rows.append(
                {
                    "runtime": runner.description,
                    "attention": name,
                    "relative_error": float(np.linalg.norm(found - reference) / np.linalg.norm(reference)),
                    "flips": float(np.mean(found.argmax(1) != reference.argmax(1))),
                    **{f"median_ms_batch_{b}": float(np.median(t[f"{runtime} {name}"])) for b, t in times.items()},
                }
            )
            print(rows[-1], flush=True)
    about = {
        "model": bundle.manifest.model,
        "threads": args.threads,
        "load_before": load,
        "images": len(images),
        "data": args.data.name if args.data else "the packaged photos",
        "products": sum(s.kind == "attention" for s in find_sites(model)),
    }
    write(f"precision_attention_{bundle.manifest.model}.json", {**about, "results": rows})


if __name__ == "__main__":
    main()
