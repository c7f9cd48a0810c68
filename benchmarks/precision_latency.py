"""Latency of one bundle's models in onnxruntime and OpenVINO against eager PyTorch, in turns in one run.

    python benchmarks/precision_latency.py --bundle FOLDER [--bundle FOLDER] --checkpoint FILE.safetensors [--threads 2]
        [--cpu-time]

Medians of interleaved calls (see poster_edge/runtime/timing.py), per batch size; the same images for all.
With --cpu-time: CPU time of one thread, which depends little on what else the machine does.
Of a second bundle only the INT8 models are timed: the same network with weights of 7 bits.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run_all import write

from poster_edge.models.checkpoint import load_model
from poster_edge.optional import available
from poster_edge.runtime.bundle import Bundle, load_bundle
from poster_edge.runtime.choose import make_runner
from poster_edge.runtime.int8_sums import pairs_fit
from poster_edge.runtime.timing import interleaved


def main() -> None:
    """Measure and write ``precision_latency_NAME.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True, action="append")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    args.threads = 1 if args.cpu_time else args.threads
    torch.set_num_threads(args.threads)
    bundles = [load_bundle(name) for name in args.bundle]
    bundle = bundles[0]
    network, _ = load_model(args.checkpoint)
    size, feed = bundle.manifest.preprocess.size, bundle.manifest.input_name
    rows: list[dict[str, Any]] = []
    # Above 1 other programs were running: their share falls on all candidates alike, but not evenly.
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        runners = {}
        for runtime in ("onnxruntime", "openvino") if available("openvino") else ("onnxruntime",):
            for one, precision in candidates(bundles, runtime):
                runner = make_runner(one, runtime=runtime, precision=precision, device="cpu", threads=args.threads)
                narrow = precision == "int8" and pairs_fit(one.read(runner.file))
                name = f"{runtime} {precision}{' (7-bit weights)' if narrow else ''}"
                runners[name] = stack.enter_context(runner)
        for batch in (1, 8):
            image = np.random.default_rng(0).normal(0, 0.5, (batch, 3, size, size)).astype(np.float32)
            tensor = torch.from_numpy(image)

            @torch.no_grad()
            def eager(tensor: torch.Tensor = tensor) -> Any:
                return network(tensor)

            calls: dict[str, Any] = {"PyTorch eager fp32": eager}
            for name, runner in runners.items():
                calls[name] = lambda runner=runner, image=image: runner.infer({feed: image})
            clock = time.process_time if args.cpu_time else time.perf_counter
            times = interleaved(calls, rounds=args.rounds, budget_s=240, clock=clock)
            base = float(np.median(times["PyTorch eager fp32"]))
            for name, values in times.items():
                median = float(np.median(values))
                what = runners[name].description if name in runners else f"torch {torch.__version__}"
                file = runners[name].file if name in runners else ""
                rows.append(
                    {
                        "candidate": name,
                        "runtime": what,
                        "file": file,
                        "batch": batch,
                        "median_ms": median,
                        "p10_ms": float(np.percentile(values, 10)),
                        "p90_ms": float(np.percentile(values, 90)),
                        "calls": len(values),
                        "times_eager": base / median,
                    }
                )
                print(f"{name:34} batch {batch}  {median:8.2f} ms  {base / median:5.2f}x", flush=True)
    gates = [b.manifest.gate for b in bundles]
    passed = all(g and g.get("passed") for g in gates)
    about = {"model": bundle.manifest.model, "threads": args.threads, "load_before": load, "gate_passed": passed}
    write(f"precision_latency_{bundle.manifest.model}{'_cpu' * args.cpu_time}.json", {**about, "results": rows})


def candidates(bundles: list[Bundle], runtime: str) -> Iterator[tuple[Bundle, str]]:
    """Bundles and precisions that a runtime is timed in."""
    for bundle in bundles:
        for precision in dict.fromkeys(a.precision for a in bundle.manifest.artefacts.values() if a.precision):
            # onnxruntime has no FP16 kernels on a CPU: it would time casts.
            if (precision != "fp16" or runtime == "openvino") and (precision == "int8" or bundle is bundles[0]):
                yield bundle, precision


if __name__ == "__main__":
    main()
