"""The figures of TensorRT-RTX: a row a model for the README; on its page a row a model and precision, and more."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

Row = dict[str, str]
Table = Callable[[list[str], list[list[str]]], str]
_PRECISIONS = ("fp32", "fp16", "int8")

_PLAN_SIZE = (
    "Plans of TensorRT-RTX carry the CUDA source of their kernels as text, compiled on the GPU that runs them; without "
    "it a plan is about as large as its ONNX file. In a small model that text is nearly the whole plan, and INT8 needs "
    "more and longer kernels than FP16: that is why its plan is the larger one though its weights are the smaller."
)


def read(path: Path) -> dict[tuple[str, str], list[Row]]:
    """Rows of engines.csv by model and precision, in the file's order."""
    groups: dict[tuple[str, str], list[Row]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            groups.setdefault((row["model"], row["precision"]), []).append(row)
    return groups


def short(path: Path, table: Table) -> str:
    """A row a model: plan size and CPU time in each precision."""
    groups = read(path)
    rows = []
    for model in dict.fromkeys(model for model, _ in groups):
        found = {p: _built(groups.get((model, p), [])) for p in _PRECISIONS}
        peak = _range([r["peak_rss_mb"] for g in found.values() for r in g], digits=0)
        rows.append([model, *(_size_and_time(found[p]) for p in _PRECISIONS), peak])
    columns = ["engine of", "FP32: plan MB, CPU s", "FP16", "INT8 + FP16", "peak RSS MB"]
    return "\n\n".join(
        [f"{_about(groups)} More in [docs/tensorrt.md](docs/tensorrt.md#figures).", table(columns, rows)]
    )


def page(results: Path, table: Table) -> str:
    """Everything on docs/tensorrt.md."""
    parts = [on_gpu(results / "gpu_check.csv"), full(results / "engines.csv", table)]
    broken = results / "broken_onnx.json"
    return "\n\n".join([*parts, *([damaged(broken)] if broken.is_file() else [])])


def on_gpu(path: Path) -> str:
    """What of the runner was executed on a GPU, with TensorRT replaced by a stand-in."""
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["what"].startswith(("cuda-python", "pycuda", "runner on"))]
    fine = sum(r["ok"] == "True" for r in rows)
    package = next(r["what"].partition(":")[0] for r in rows if not r["what"].startswith("runner"))
    overlapped = next(r for r in rows if r["what"].endswith("overlapped"))
    return (
        f"**On a real GPU** ({rows[0]['device']}, {package}, {rows[0]['date'][:10]}; `make gpu-check`, "
        f"`gpu_check.csv`): {fine} of {len(rows)} checks passed: memory, page-locked copies, events, CUDA graphs, "
        "failed captures, and the runner and the pipeline above them with a stand-in for TensorRT's engine. "
        f"Overlapped, the pipeline made {overlapped['note']} (a detector's work on the CPU, the engine's on the GPU)."
    )


def damaged(path: Path) -> str:
    """What became of thousands of damaged ONNX files."""
    report = json.loads(path.read_text())
    outcomes = report["outcomes"]
    ended = len(report["ended_their_process_and_were_contained"])
    return (
        f"**Damaged files.** {report['files']:,} ONNX files, damaged at random in their bytes or in the fields of the "
        "protobuf, through parser and builder (`benchmarks/broken_onnx.py`, `broken_onnx.json`): "
        f"{outcomes['built']:,} were built all the same, {outcomes['refused']:,} refused by one line, and {ended} made "
        "NVIDIA's library end its process, which was one line and exit code 4. The slowest took "
        f"{report['slowest_cpu_s']:.1f} s of CPU time, the largest {report['largest_mb']} MB; "
        f"{len(report['faults']) or 'none'} did anything else."
    )


def full(path: Path, table: Table) -> str:
    """A row a model and precision, with what it computes in; ranges are over the compute capabilities."""
    groups = read(path)
    rows = []
    for (model, precision), group in groups.items():
        built = _built(group)
        if not built:
            continue
        first = built[0]
        rows.append(
            [
                model,
                precision,
                ", ".join(r["compute_capability"].replace("+", " + ") for r in built),
                _range([r["cpu_s"] for r in built], digits=0),
                f"{float(first['onnx_mb']):.1f}",
                _range([r["plan_mb"] for r in built]),
                f"{_range([r['kernel_text_mb'] for r in built])} ({_range([r['kernels'] for r in built], digits=0)})",
                _range([r["peak_rss_mb"] for r in built], digits=0),
                f"{first['convolutions']}; {first['matrix_products']}",
                f"{first['fused_attention']} for {first['softmaxes']}",
            ]
        )
    columns = ["", "precision", "for", "CPU s", "ONNX MB", "plan MB", "of it source (kernels)", "peak RSS MB"]
    columns += ["convolutions; matrix products", "fused attention"]
    return "\n\n".join([_about(groups), table(columns, rows), _PLAN_SIZE])


def _about(groups: dict[tuple[str, str], list[Row]]) -> str:
    rows = [r for group in groups.values() for r in group]
    first = rows[0]
    refused = [r for r in rows if r["refused"]]
    models = len({model for model, _ in groups})
    commits = {r["commit"][:7] for r in rows}
    capabilities = ", ".join(sorted({c for r in rows for c in r["compute_capability"].split("+")}, key=float))
    return (
        f"TensorRT-RTX {first['tensorrt_rtx']} engines of {models} models for batches {first['profile']} and compute "
        f"capabilities {capabilities}, {len(rows) - len(refused)} in all, built without a GPU on a shared "
        f"{first['cpu']} (`benchmarks/engines.py`, `engines.csv`, which names the commit of each row: "
        f"{', '.join(sorted(commits))}); all but {_trained(rows)} with stand-in weights. {_refused(refused)}"
    )


def _trained(rows: Sequence[Row]) -> str:
    """Models whose engines were built from trained weights."""
    return " and ".join(dict.fromkeys(r["model"] for r in rows if r["weights"] == "trained"))


def _refused(rows: Sequence[Row]) -> str:
    """Which combinations TensorRT-RTX does not build."""
    if not rows:
        return "None was refused."
    where = {(r["precision"], r["compute_capability"]) for r in rows}
    named = ", ".join(f"{p.upper()} on {c}" for p, c in sorted(where))
    why = (
        "for want of FP32 matrix products there" if all("FP32 matrix" in r["refused"] for r in rows) else "see the file"
    )
    return f"Refused, {why}: {named}."


def _built(rows: Sequence[Row]) -> list[Row]:
    return [r for r in rows if not r["refused"]]


def _size_and_time(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return f"{_range([r['plan_mb'] for r in rows])}, {_range([r['cpu_s'] for r in rows], digits=0)} s"


def _range(values: Sequence[str], *, digits: int = 1) -> str:
    """ "14.0", or "14.0 to 15.1" where values differ as shown."""
    if not values:
        return ""
    numbers = [float(v) for v in values]
    low, high = (f"{v:.{digits}f}" for v in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"
