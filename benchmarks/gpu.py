"""What a GPU machine is asked for: numerics, training, times.  Runs on the CPU at toy size with --cpu.

    python benchmarks/gpu.py check|train|bench --out FOLDER [--cpu]

``check`` compares every model in the precisions of deployment and the fused kernels with float64, and
onnxruntime's execution providers with its CPU kernels; on a GPU it runs memory, streams and CUDA graphs
through each CUDA package, TensorRT where it is installed, and the kernels under compute-sanitizer.
``train`` trains one model (--model) and can be called again to go on; ``bench`` times eager, compiled,
CUDA-graph and fused forward passes.  Each writes a JSON file with device, versions, commit and date
(again and again while it runs), and prints a table; ``bench`` writes a CSV file too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from gpu_common import ROOT, environment, show, write_record

from poster_edge.models.config import CONFIGS
from poster_edge.models.poster_config import PosterConfig

#: Minutes that a job may take.
MINUTES = {"check": 1.8, "train": 7.0, "bench": 2.4}


def train(device: str, out: Path, data: Path, minutes: float, model: str) -> list[dict[str, Any]]:
    """Train a model through the command line; resumes what ``out`` holds."""
    folder = out / model
    arguments = ["--model", model, "--data", str(data / "fer2013_train_valid.npz")]
    if device == "cpu":
        arguments = ["--model", model, "--data", str(toy_faces(out)), "--epochs", "2", "--batch", "8"]
        arguments += ["--landmark-epochs", "1"]
    elif isinstance(CONFIGS[model], PosterConfig):
        arguments += ["--landmarks", str(data / "fer2013_mesh_train_valid.npz"), "--landmark-epochs", "20"]
        arguments += ["--epochs", "120", "--batch", "128"]
    command = [sys.executable, "-m", "poster_edge", "train", *arguments, "--device", device, "-o", str(folder)]
    command += ["--stop-after", str(minutes)] + (["--resume"] if (folder / "config.json").exists() else [])
    subprocess.run(command, cwd=ROOT, check=True)
    lines = (folder / "metrics.csv").read_text().splitlines()
    return [dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))]


def toy_faces(out: Path) -> Path:
    """A few noise pictures in two classes, to prove that the target works without the data."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (48, 48, 48), dtype=np.uint8)
    path = out / "toy.npz"
    np.savez(path, images=images, labels=np.arange(48) % 2, classes=np.array(["happy", "sad"]))
    return path


def main() -> None:
    """Run one of the three jobs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=["check", "train", "bench"])
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--cpu", action="store_true", help="toy size on the CPU")
    parser.add_argument("--data", type=Path, default=ROOT / "carry", help="folder with the two FER2013 .npz files")
    parser.add_argument("--model", choices=list(CONFIGS), default="poster-nano", help="what to train")
    parser.add_argument("--minutes", type=float, help=f"of a call [default: {MINUTES}]")
    parser.add_argument("--sweep", action="store_true", help="bench: also try the kernels' launch settings, a minute")
    args = parser.parse_args()
    began, minutes = time.monotonic(), args.minutes or MINUTES[args.job]
    device = "cpu" if args.cpu else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.exit(4, "no GPU here; add CPU=1 (or --cpu) for the toy size\n")
    args.out.mkdir(parents=True, exist_ok=True)
    head = {"job": args.job, "environment": environment(device)}
    path = args.out / f"gpu_{args.job}.json"
    if args.job == "check":
        from gpu_check import check

        rows = check(cpu=args.cpu, seconds=60 * minutes, flush=lambda rows: write_record(path, {**head, "rows": rows}))
    elif args.job == "bench":
        from gpu_bench import bench

        rows = bench(
            cpu=args.cpu,
            seconds=60 * minutes,
            sweep=args.sweep,
            out=args.out,
            flush=lambda record: write_record(path, {**head, **record}),
            began=began,
        )
    else:
        rows = train(device, args.out, args.data, minutes, args.model)
        write_record(path, {**head, "rows": rows})
    if not args.cpu:
        # The end of the output matters most.
        bad = [row for row in rows if row.get("ok") is not True and args.job != "train"]
        print(
            f"{len(rows)} rows; those that failed or could not be measured:" if bad else f"{len(rows)} rows, all fine"
        )
    show(rows if args.cpu or args.job != "check" else bad)
    if args.cpu and args.job == "check":
        print("GPU memory, CUDA graphs, TensorRT and compute-sanitizer need a GPU: not checked here")
    print(f"{path}: {time.monotonic() - began:.0f} s")
    if any(r.get("ok") is False for r in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
