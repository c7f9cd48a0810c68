"""Peak memory and time of calibration for growing numbers of images, each in a process of its own.

python benchmarks/calibration_memory.py --data FILE.npz [--model NAME]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from poster_edge.config import DEFAULT_MODEL

SIZES = (64, 512, 4096)


def one(data: Path, model_name: str, count: int) -> None:
    """Calibrate on ``count`` images and print what it took."""
    import onnx

    from poster_edge.calib.batches import from_faces
    from poster_edge.calib.cache import from_histograms
    from poster_edge.calib.collect import collect
    from poster_edge.calib.qdq import tensors_to_calibrate
    from poster_edge.data.faces import load_faces
    from poster_edge.runtime.bundle import load_bundle

    bundle = load_bundle(model_name)
    model = onnx.load_from_string(bundle.read("model.onnx"))
    images = from_faces(load_faces(data), count, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    tensors = tensors_to_calibrate(model)
    histograms = collect(model, tensors, images.batches(bundle.manifest.preprocess, 32), threads=2)
    middle = time.perf_counter()
    from_histograms(histograms)
    print(
        json.dumps(
            {
                "images": images.count,
                "tensors": len(tensors),
                "collect_s": middle - began,
                "ranges_s": time.perf_counter() - middle,
                "rss_before_mib": before,
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def main() -> None:
    """Measure and write ``calibration_memory.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.data, args.model, args.one)
        return
    from run_all import write

    rows = []
    for count in SIZES:
        command = [sys.executable, __file__, "--data", str(args.data), "--model", args.model, "--one", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    write("calibration_memory.json", {"model": args.model, "data": args.data.name, "results": rows})


if __name__ == "__main__":
    main()
