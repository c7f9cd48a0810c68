"""Where the time goes in the default model and POSTER here, and POSTER's bounds on every device of the table.

    python benchmarks/profiles.py [--only NAME] [--work FOLDER] [--frames 50] [--runs 30]

Writes ``profile_poster-mini.json``, ``profile_poster.json`` (the slowest layers of each runtime) and
``roofline_poster.json``.  POSTER has stand-in weights: its labels mean nothing, its times and bounds do not depend on
them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from run_all import ROOT, write

from poster_edge.bench.devices import DEVICES
from poster_edge.bench.layers_graph import Graph, read_graph
from poster_edge.bench.roofline import at_precision, bounds
from poster_edge.config import DEFAULT_MODEL
from poster_edge.optional import available
from poster_edge.runtime.bundle import load_bundle

#: Layers of each runtime that a result file keeps.
KEPT = 25
BATCHES = (1, 8)


def profile(bundle: str, runtime: str, args: argparse.Namespace) -> dict[str, Any]:
    """One ``poster-edge profile``, cut to what is worth keeping."""
    options = ["--frames", str(args.frames), "--runs", str(args.runs), "--threads", str(args.threads)]
    command = [sys.executable, "-m", "poster_edge", "profile", "--model", bundle, "--runtime", runtime, *options]
    print("poster-edge", *command[3:], flush=True)
    done = subprocess.run([*command, "--layers", "--json", "-"], check=True, stdout=subprocess.PIPE, cwd=ROOT)
    found = json.loads(done.stdout)
    rows = found["layers"].pop("rows")
    kinds: dict[str, dict[str, float]] = defaultdict(lambda: {"layers": 0, "ms": 0.0, "flops": 0})
    for row in rows:
        kind = kinds[row["kind"]]
        kind["layers"] += 1
        kind["ms"] += row["median_ms"]
        kind["flops"] += sum(row["flops"].values())
    found["layers"] |= {
        "count": len(rows),
        "flops": sum(sum(row["flops"].values()) for row in rows),
        "by_kind": dict(sorted(kinds.items(), key=lambda item: -item[1]["ms"])),
        "slowest": sorted(rows, key=lambda row: -row["median_ms"])[:KEPT],
    }
    return {key: value for key, value in found.items() if key not in ("environment", "energy", "targets")}


def without_border_maps(graph: Graph) -> Graph:
    """The graph without the maps that the exporter adds where BatchNorm is folded past a padded convolution.

    They are (1, channels, height, width), no parameters of the network, and a folding that knows the border could
    do without them.
    """
    maps = {
        graph.stored(t)
        for n in graph.nodes
        if n.op == "Add"
        for t in n.inputs
        if graph.tensors[graph.stored(t)].constant and len(graph.tensors[graph.stored(t)].shape) == 4
    }
    small = {name: replace(t, shape=(0,)) if name in maps else t for name, t in graph.tensors.items()}
    return replace(graph, tensors=small)


def bounds_of(bundle: str) -> dict[str, Any]:
    """The three bounds on every device, in FP16 and INT8, with operations and bytes."""
    data = load_bundle(bundle).read("model.onnx")
    rows = []
    total = read_graph(data, batch=1).total()
    for batch in BATCHES:
        graph = read_graph(data, batch=batch)
        for precision in ("fp16", "int8"):
            seen = at_precision(graph, precision)
            lean = without_border_maps(seen)
            for target, device in DEVICES.items():
                found = bounds(seen, device)
                rows.append(
                    {
                        "target": target,
                        "precision": precision,
                        "batch": batch,
                        "rests_on_derived_figures": device.doubtful(precision),
                        "ideal_us": 1e6 * found.ideal,
                        "fused_us": 1e6 * found.fused,
                        "layers_us": 1e6 * found.layers,
                        "fused_without_border_maps_us": 1e6 * bounds(lean, device).fused,
                    }
                )
    return {"flops": total.total_flops, "weights_bytes_fp32": total.weights, "bounds": rows}


def poster(work: Path) -> str:
    """A bundle of full POSTER with stand-in weights."""
    folder = work / "poster"
    if not folder.is_dir():
        export = ["export", "--model", "poster", "--random-weights", "-o", str(folder)]
        subprocess.run([sys.executable, "-m", "poster_edge", *export], check=True, cwd=ROOT)
    return str(folder)


def main() -> None:
    """Profile and write the result files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder that keeps POSTER's bundle")
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=[DEFAULT_MODEL, "poster"], help="[default: both]")
    args = parser.parse_args()
    runtimes = ["onnxruntime", *(r for r in ("openvino", "torch") if available(r))]
    with tempfile.TemporaryDirectory() as folder:
        wanted = {}
        if args.only != "poster":
            wanted[DEFAULT_MODEL] = DEFAULT_MODEL, runtimes
        if args.only != DEFAULT_MODEL:
            bundle = poster(args.work or Path(folder))
            write("roofline_poster.json", {"model": "poster", "weights": "stand-in", **bounds_of(bundle)})
            # A bundle of a large model goes without PyTorch's weights.
            wanted["poster"] = bundle, [r for r in runtimes if r != "torch"]
        for name, (model, used) in wanted.items():
            found = {runtime: profile(model, runtime, args) for runtime in used}
            write(f"profile_{name}.json", {"threads": args.threads, "profiles": found})


if __name__ == "__main__":
    main()
