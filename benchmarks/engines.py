"""Builds TensorRT-RTX engines for every model, precision and compute capability; needs no GPU.

    python benchmarks/engines.py --work FOLDER [--models poster-nano poster …] [--capabilities 7.5 8.6 …] [--jobs 2]

Bundles are made in --work where they are not there yet: the packaged models with their weights, the others with
random ones (time, size and kernels do not depend on them).  Each engine is built in a process of its own, so that
peak memory is its own; a build keeps one core busy.  "8.0+8.6" is one plan for both: its kernels are source text, so
it is no larger and takes no longer than one of them.  Rows that are there already for the same graph and version
are kept, each with the commit it was built at.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from run_all import RESULTS, ROOT, environment

from poster_edge.errors import PosterEdgeError, UnavailableError
from poster_edge.export.engine import build_engine
from poster_edge.export.engine_report import report_engine
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.tensorrt_api import RTX, load
from poster_edge.files import write_atomic
from poster_edge.models.config import CONFIGS
from poster_edge.runtime.bundle import load_bundle, zoo_names

TABLE = RESULTS / "engines.csv"
FILES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8-inputs.onnx"}
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0")
PROFILE = Profile(1, 4, 16)
MODELS = tuple(CONFIGS)
#: The table is read, changed and written as one.
_TABLE_LOCK = threading.Lock()
_TEXT = re.compile(rb"[\x20-\x7e\t\n]{64,}")
COLUMNS = (
    "model",
    "precision",
    "compute_capability",
    "profile",
    "weights",
    "build_s",
    "cpu_s",
    "onnx_mb",
    "plan_mb",
    "kernel_text_mb",
    "kernels",
    "peak_rss_mb",
    "convolutions",
    "matrix_products",
    "softmaxes",
    "fused_attention",
    "refused",
    "onnx_sha256",
    "tensorrt_rtx",
    "cpu",
    "cores",
    "commit",
    "date",
)


def bundle(model: str, work: Path) -> Path:
    """A bundle with all three precisions, made where it is not there yet."""
    folder = work / model
    if not folder.is_dir():
        lower = ["--half", "--int8", "--target", "tensorrt", "--no-gate", "-o", str(folder)]
        if model not in zoo_names():
            photos = ROOT / "poster_edge" / "zoo" / "samples"
            lower += ["--random-weights", "--compare", "3", "--calib", str(photos), "--calib-method", "minmax"]
        subprocess.run([sys.executable, "-m", "poster_edge", "export", "--model", model, *lower], check=True, cwd=ROOT)
    return folder


def build(onnx: Path, capability: str) -> dict[str, Any]:
    """One engine in this process; runs as the child."""
    tensorrt = load(RTX)
    spec = EngineSpec(RTX, PROFILE, compute_capabilities=tuple(capability.split("+")))
    try:
        engine = build_engine(tensorrt, onnx.read_bytes(), spec)
    except UnavailableError as error:
        return {"refused": str(error), "tensorrt_rtx": tensorrt.version}
    report = report_engine(tensorrt, engine)
    counts = {kind: " ".join(f"{n} {p}" for p, n in found.items()) for kind, found in report.counts().items()}
    times = os.times()
    return {
        "build_s": round(engine.seconds, 1),
        "cpu_s": round(times.user + times.system, 1),
        "plan_mb": round(len(engine.plan) / 1e6, 2),
        # A plan holds the CUDA source of its kernels, compiled where it runs; weights hardly ever look like text.
        "kernel_text_mb": round(sum(map(len, _TEXT.findall(engine.plan))) / 1e6, 2),
        "kernels": engine.plan.count(b"__global__"),
        "peak_rss_mb": round(engine.peak_rss_mb),
        "convolutions": counts.get("convolution", ""),
        "matrix_products": counts.get("matrix product", ""),
        "softmaxes": report.softmaxes,
        "fused_attention": report.fused_attention,
        "refused": "",
        "tensorrt_rtx": tensorrt.version,
    }


def row(folder: Path, model: str, precision: str, capability: str) -> dict[str, Any]:
    """Build in a child and describe it."""
    opened = load_bundle(folder)
    file = folder / FILES[precision]
    child = [sys.executable, __file__, "--child", str(file), capability]
    done = subprocess.run(child, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise PosterEdgeError(f"{model} {precision} {capability}: {done.stderr[-2000:]}")
    machine = environment()
    return {
        "model": model,
        "precision": precision,
        "compute_capability": capability,
        "profile": str(PROFILE),
        "weights": "trained" if model in zoo_names() else "stand-in",
        "onnx_mb": round(file.stat().st_size / 1e6, 2),
        "onnx_sha256": opened.manifest.artefacts[file.name].sha256,
        **{name: machine[name] for name in ("cpu", "cores", "commit", "date")},
        **json.loads(done.stdout.splitlines()[-1]),
    }


def read_table() -> dict[tuple[str, str, str], dict[str, Any]]:
    """Rows of the table by model, precision and capability."""
    if not TABLE.is_file():
        return {}
    with TABLE.open(newline="") as file:
        return {(r["model"], r["precision"], r["compute_capability"]): r for r in csv.DictReader(file)}


def write_table(rows: dict[tuple[str, str, str], dict[str, Any]]) -> None:
    """All rows, ordered as models, precisions and capabilities are."""

    def place(key: tuple[str, str, str]) -> tuple[int, str, int, float]:
        model, precision, capability = key
        return (
            MODELS.index(model) if model in MODELS else len(MODELS),
            model,
            list(FILES).index(precision),
            float(capability.partition("+")[0]) + 0.01 * capability.count("+"),
        )

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows[key] for key in sorted(rows, key=place))
    write_atomic(TABLE, text.getvalue())


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--precisions", nargs="+", default=tuple(FILES), choices=tuple(FILES))
    parser.add_argument("--capabilities", nargs="+", default=CAPABILITIES)
    parser.add_argument("--jobs", type=int, default=1, help="engines built at a time")
    parser.add_argument("--child", nargs=2, metavar=("ONNX", "CAPABILITY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(build(Path(args.child[0]), args.child[1])))
        return
    if args.work is None:
        parser.error("--work FOLDER is needed")
    version = load(RTX).version
    for model in args.models:
        folder = bundle(model, args.work)
        with ThreadPoolExecutor(args.jobs) as pool:
            jobs = [
                pool.submit(fill, folder, model, precision, capability, version)
                for precision, capability in product(args.precisions, args.capabilities)
            ]
        for job in jobs:
            job.result()


def fill(folder: Path, model: str, precision: str, capability: str, version: str) -> None:
    """One row, unless it is there for the same graph and version."""
    key = (model, precision, capability)
    onnx = hashlib.sha256((folder / FILES[precision]).read_bytes()).hexdigest()
    old = read_table().get(key, {})
    if old.get("onnx_sha256") == onnx and old.get("tensorrt_rtx") == version:
        return
    made = row(folder, model, precision, capability)
    with _TABLE_LOCK:
        write_table({**read_table(), key: made})
    print(*key, made.get("build_s", made["refused"]), flush=True)


if __name__ == "__main__":
    main()
