"""The fused kernels' errors, and the tables of what a GPU machine measured.

    python benchmarks/kernels.py [--out FOLDER] [--cases nano,no-mix,poster,logits] [--golden FOLDER]
    python benchmarks/kernels.py --gpu FOLDER [--out FOLDER]

The second form takes what ``gpu.py check`` and ``gpu.py bench`` wrote on a GPU machine, and makes the tables
and the plot of benchmarks/results from it.

Without a GPU the kernels run in Triton's interpreter and only ``kernels_numerics.csv`` is written;
bfloat16 is left out there, since the interpreter multiplies it wrongly.  ``poster`` takes one depth of
the whole POSTER, ``logits`` chains all of them; both need ``official_weights.py`` in ``--golden``.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch
from kernel_cases import BATCHES, ROOT, numerics

from poster_edge.files import write_atomic
from poster_edge.kernels.numerics import BARS, Row


def write(rows: list[Row], path: Path) -> None:
    """Write rows as CSV, each with its verdict; rows of the same case, precision and batch are replaced."""
    lines = [{**asdict(r), "ok": str(r.ok)} for r in rows]
    for line in lines:
        line |= {k: f"{line[k]:.3e}" for k in ("error", "torch_error", "bar")}
    new = {(r.case, r.precision, str(r.batch)) for r in rows}
    if path.is_file():
        with path.open(newline="") as file:
            kept = [x for x in csv.DictReader(file) if (x["case"], x["precision"], x["batch"]) not in new]
        lines = kept + lines
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)] + ["ok"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue())


def summary(rows: list[Row]) -> None:
    """Print the worst row of each case, kernel and precision."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.case, row.kernel, row.precision), []).append(row)
    for key, members in groups.items():
        bad = [r for r in members if not r.ok]
        worst = (bad or sorted(members, key=lambda r: r.error))[-1]
        own = f"{worst.torch_error:.2e}" if worst.torch_error == worst.torch_error else "-"
        verdict = "ok" if not bad else f"FAILED {worst.note}"
        print(f"{' '.join(key):28} {worst.error:9.2e}  torch {own:9} bar {worst.bar:.0e}  {len(members):3}  {verdict}")


def main() -> None:
    """Write the numerics, or a GPU's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--cases", default="nano,no-mix,poster,logits")
    parser.add_argument("--precisions", default="")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--golden", type=Path, default=ROOT.parent / "shared" / "golden")
    parser.add_argument("--gpu", type=Path, help="folder with gpu_check.json, gpu_bench.json and gpu_bench.csv")
    args = parser.parse_args()
    if args.gpu:
        from gpu_tables import make_tables

        make_tables(args.gpu, args.out)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precisions = args.precisions.split(",") if args.precisions else [p for p in BARS if device == "cuda" or p != "bf16"]
    folder = args.golden if (args.golden / "official_weights.py").is_file() else None
    with torch.inference_mode():
        rows = numerics(
            args.cases.split(","),
            device=device,
            precisions=precisions,
            batches=tuple(int(b) for b in args.batches.split(",")),
            folder=folder,
        )
    write(rows, args.out / "kernels_numerics.csv")
    summary(rows)
    if not all(r.ok for r in rows):
        sys.exit("errors above their bars")


if __name__ == "__main__":
    main()
