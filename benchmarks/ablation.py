"""Trains the rows of all ablation tables of poster-nano, alike and on the same data, and keeps the record.

python benchmarks/ablation.py --data fer2013.npz --landmarks mesh.npz                              all of it: long
python benchmarks/ablation.py --data fer2013.npz --landmarks mesh.npz --images 6000 --epochs 8     a smaller study

The same command goes on where it stopped (--minutes M stops at an epoch's end).  Every row is a run of
``poster-edge ablate`` in runs/ablation; ``python benchmarks/evaluation.py`` puts the record into docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ingredients import check_record, settle, study_options, training_environment
from run_all import ROOT
from subset import write_subset

from poster_edge.models.ablation import TABLES

RECORD = "ablation.json"
MODEL = "poster-nano"


def train(table: str, folder: Path, files: tuple[Path, Path], args: argparse.Namespace) -> dict[str, Any]:
    """Train the rows of a table that are not done yet; returns what ``ablate`` wrote."""
    line = [sys.executable, "-m", "poster_edge", "ablate", "--table", table, "--model", MODEL, "-o", str(folder)]
    line += ["--data", str(files[0]), "--landmarks", str(files[1]), "--epochs", str(args.epochs)]
    line += ["--landmark-epochs", str(args.landmark_epochs), "--device", args.device, "--precision", args.precision]
    if args.deadline is not None:
        line += ["--stop-after", f"{max(0.0, args.deadline - time.monotonic()) / 60:.3f}"]
    env = {**os.environ, **({"OMP_NUM_THREADS": str(args.threads)} if args.threads else {})}
    print(table, flush=True)
    subprocess.run(line, cwd=ROOT, env=env, check=True)
    values: dict[str, Any] = json.loads((folder / f"{table}.json").read_text())
    return values


def study(args: argparse.Namespace) -> None:
    """All tables; the record after each."""
    shared = {
        "model": MODEL,
        "data": args.data.name,
        "images": args.images or "all",
        "validation_images": args.validation_images or "all",
        "epochs": args.epochs,
        "landmark_epochs": args.landmark_epochs,
        "precision": args.precision,
    }
    check_record(args.out, shared)
    work = args.work / "-".join(str(v) for v in shared.values())
    files = args.data, args.landmarks
    if args.images:
        files = write_subset(args.data, args.landmarks, work, args.images, args.validation_images)
    tables: dict[str, Any] = {}
    for table in args.table or TABLES:
        if args.deadline is not None and time.monotonic() >= args.deadline:
            break
        found = train(table, work, files, args)
        tables[table] = found["rows"]
        about = {"environment": training_environment(), **shared, "threads": args.threads, "recipe": found["recipe"]}
        args.out.write_text(json.dumps({**about, "tables": tables}, indent=1) + "\n")
        if any(row["accuracy"] is None for row in found["rows"]):
            print("stopped for want of time; the same command goes on")
            return


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    study_options(parser, name="ablation", record=RECORD)
    parser.add_argument("--table", choices=TABLES, action="append", help="may be repeated [default: all]")
    args = parser.parse_args()
    settle(args)
    study(args)


if __name__ == "__main__":
    main()
