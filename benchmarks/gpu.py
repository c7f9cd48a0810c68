"""What a GPU machine is asked for: numerics, training, times.  Runs on the CPU at toy size with --cpu.

    python benchmarks/gpu.py check|train|bench --out FOLDER [--cpu]

``check`` compares every model in the precisions of deployment and the fused kernels with float64, and
onnxruntime's execution providers with its CPU kernels; on a GPU it runs memory, streams and CUDA graphs
through each CUDA package, TensorRT where it is installed, and the kernels under compute-sanitizer.
``train`` trains the small models and their teachers and can be called again to go on; ``bench`` times eager, compiled,
CUDA-graph and fused forward passes.  Each writes a JSON file with device, versions, commit and date
(again and again while it runs), and prints a table; ``bench`` writes a CSV file too.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from gpu_common import ROOT, environment, show, write_record

#: Minutes that a job may take.
MINUTES = {"check": 1.8, "train": 7.0, "bench": 2.5}


def main() -> None:
    """Run one of the three jobs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=["check", "train", "bench"])
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--cpu", action="store_true", help="toy size on the CPU")
    parser.add_argument("--data", type=Path, default=ROOT / "carry", help="folder with the two FER2013 .npz files")
    parser.add_argument("--model", help="train: these steps of the plan alone, comma between [default: all]")
    parser.add_argument("--scale", type=float, default=1.0, help="train: factor on the plan's epochs")
    parser.add_argument("--minutes", type=float, help=f"of a call [default: {MINUTES}]")
    parser.add_argument("--wait-for", type=Path, help="bench: measure when this file is there, and the GPU free")
    parser.add_argument("--sweep", action="store_true", help="bench: also try the kernels' launch settings, a minute")
    args = parser.parse_args()
    if args.wait_for and args.job != "bench":
        parser.error(f"--wait-for is for bench, not {args.job}")
    began, minutes = time.monotonic(), args.minutes or MINUTES[args.job]
    device = "cpu" if args.cpu else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.exit(4, "no GPU here; add CPU=1 (or --cpu) for the toy size\n")
    args.out.mkdir(parents=True, exist_ok=True)
    head = {"job": args.job, "environment": environment(device)}
    path = args.out / f"gpu_{args.job}.json"
    if args.job == "check":
        from gpu_check import check

        # Without a GPU a slow machine may take its time.
        limit = 60 * minutes * (4 if args.cpu else 1)
        rows = check(cpu=args.cpu, seconds=limit, flush=lambda rows: write_record(path, {**head, "rows": rows}))
    elif args.job == "bench":
        from gpu_bench import bench

        rows = bench(
            cpu=args.cpu,
            seconds=60 * minutes,
            sweep=args.sweep,
            wait_for=args.wait_for,
            out=args.out,
            flush=lambda record: write_record(path, {**head, **record}),
            began=began,
        )
    else:
        from gpu_train import start_sharing, train

        stop = (lambda: None) if args.cpu else start_sharing()
        try:
            rows = train(
                cpu=args.cpu,
                out=args.out,
                data=args.data,
                seconds=60 * minutes,
                scale=args.scale,
                only=args.model,
            )
        finally:
            stop()
        write_record(path, {**head, "rows": rows})
    if not args.cpu:
        # The end of the output matters most.
        bad = [row for row in rows if row.get("ok") is not True and args.job != "train"]
        print(
            f"{len(rows)} rows; those that failed or could not be measured:" if bad else f"{len(rows)} rows, all fine"
        )
    if args.job == "bench":
        from gpu_bench import summary

        summary(rows)
    show(rows if args.cpu or args.job == "train" else bad)
    if args.cpu and args.job == "check":
        print("GPU memory, CUDA graphs, TensorRT and compute-sanitizer need a GPU: not checked here")
    print(f"{path}: {time.monotonic() - began:.0f} s")
    if any(r.get("ok") is False for r in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
