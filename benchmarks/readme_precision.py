"""The figures of FP16 and INT8: a few rows for the README, all of them on docs/precision.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Report = dict[str, Any]
Table = Callable[[list[str], list[list[str]]], str]
#: The method and the number of images that ``export`` takes by itself.
_DEFAULT = ("mse", 512)
#: A load average from which on a measurement says that the machine was busy.
_QUIET = 2.0


def load(path: Path) -> Report:
    """One result file."""
    values: Report = json.loads(path.read_text())
    return values


def short(results: Path, table: Table) -> str:
    """Accuracy of what ``export`` writes by default, and how fast full POSTER and poster-nano are."""
    report = load(results / "precision_accuracy.json")
    rows = [_accuracy(r) for r in report["results"] if (r.get("method", "mse"), r.get("images", 512)) == _DEFAULT]
    timed = [results / f"precision_latency_{name}.json" for name in ("poster", "poster-nano")]
    machine = load(timed[0])
    busy = ", a busy machine" if machine.get("load_before", 0) > _QUIET else ""
    return "\n\n".join(
        [
            f"FP32, FP16 and INT8 of {report['model']} on all {report['images']} validation faces; other calibrations, "
            "latencies and memory are in [docs/precision.md](docs/precision.md#figures):",
            table(_COLUMNS, rows),
            f"INT8, times as fast as eager PyTorch in FP32, on {machine['threads']} threads of "
            f"{machine['environment']['cpu']}{busy}: {'; '.join(map(_speed, timed))}.",
        ]
    )


def page(results: Path, table: Table) -> str:
    """Everything on docs/precision.md."""
    halves = [half(load(p), table) for p in sorted(results.glob("fp16_faces_*.json"))]
    latencies = [latency(load(p), p, table) for p in sorted(results.glob("precision_latency_*.json"))]
    products = [attention(load(p), table) for p in sorted(results.glob("precision_attention_*.json"))]
    return "\n\n".join([accuracy(results, table), *latencies, *products, *halves])


_COLUMNS = ["file", "runtime", "calibration", "accuracy", "points lost (95 %)", "images that change class"]


def accuracy(results: Path, table: Table) -> str:
    """Accuracy of each precision and calibration method, and what calibrating takes."""
    report = load(results / "precision_accuracy.json")
    calibrated = load(results / "calibration_memory.json")
    memory = [
        [str(r["images"]), f"{r['collect_s'] + r['ranges_s']:.1f} s", f"{r['peak_rss_mib']:.0f} MiB"]
        for r in calibrated["results"]
    ]
    return "\n\n".join(
        [
            f"{report['model']} on all {report['images']} validation faces of FER2013 "
            "(`benchmarks/precision_accuracy.py`):",
            table(_COLUMNS, [_accuracy(r) for r in report["results"]]),
            f"Calibrating {calibrated['model']}, whole process (`benchmarks/calibration_memory.py`); memory does not "
            "follow the number of images:",
            table(["images", "time", "peak memory"], memory),
        ]
    )


def _accuracy(row: Report) -> list[str]:
    what = f"{row['method']}, {row['images']} images" if "method" in row else ""
    drop, low, high = (100 * v for v in row["accuracy_drop"])
    return [
        f"`{row['file']}`",
        row["runtime"].partition(" ")[0],
        what,
        f"{row['accuracy']:.2%}",
        f"{drop:+.2f} ({low:+.2f} to {high:+.2f})",
        f"{row['flip_rate'][0]:.2%}",
    ]


def _by_candidate(report: Report) -> dict[str, dict[int, Report]]:
    found: dict[str, dict[int, Report]] = {}
    for row in report["results"]:
        found.setdefault(row["candidate"], {})[row["batch"]] = row
    return found


def _speed(path: Path) -> str:
    """Such as "poster 2.9 (onnxruntime) and 4.4 (OpenVINO) at batch 1, …"."""
    found = _by_candidate(load(path))
    named = {"onnxruntime int8": "onnxruntime", "openvino int8": "OpenVINO"}
    parts = [
        " and ".join(f"{found[c][b]['times_eager']:.1f} ({n})" for c, n in named.items() if c in found)
        + f" at batch {b}"
        for b in (1, 8)
    ]
    return f"{path.stem.removeprefix('precision_latency_')} {', '.join(parts)}"


def latency(report: Report, path: Path, table: Table) -> str:
    """Latency against eager PyTorch; records of CPUs without VNNI are of an earlier commit and named so."""
    name, _, kind = path.stem.removeprefix("precision_latency_").partition("_")
    stand_in, commit = name == "poster", report["environment"]["commit"][:7]
    cpu = report["environment"]["cpu"] + (f" (no VNNI; measured at commit {commit})" if kind == "avx2" else "")
    rows = [
        [n, *(f"{at[b]['median_ms']:.2f} ms ({at[b]['times_eager']:.2f}x)" for b in (1, 8)), at[1]["runtime"]]
        for n, at in _by_candidate(report).items()
    ]
    busy = report.get("load_before", 0)
    cpu += f", shared with other programs (load {busy:.0f}; the figures are rough)" if busy > _QUIET else ""
    what = "Latency"
    if kind == "cpu":
        what, cpu = "CPU time", f"{cpu} (what else runs hardly matters)"
    gate = "the gate passed" if report["gate_passed"] else "the gate did not pass"
    threads = f"{report['threads']} thread{'s' * (report['threads'] > 1)}"
    return "\n\n".join(
        [
            f"{what} of {name}{', stand-in weights' if stand_in else ''}, {threads} of {cpu}, medians of "
            f"{report['results'][0]['calls']} calls taken in turns; {gate} "
            f"(`benchmarks/{'poster_precision' if stand_in else 'precision_latency'}.py`; in brackets: times as fast "
            "as eager PyTorch):",
            table(["", "batch 1", "batch 8", "what ran"], rows),
        ]
    )


def attention(report: Report, table: Table) -> str:
    """What quantising attention's own products gains and costs."""
    rows = [
        [
            r["runtime"],
            {"fp32": "whole model in FP32", "float": "float", "INT8": "INT8"}[r["attention"]],
            *(f"{r[f'median_ms_batch_{b}']:.2f} ms" for b in (1, 8)),
            f"{r['relative_error']:.4f}",
            f"{r['flips']:.2%}",
        ]
        for r in report["results"]
    ]
    busy = "" if report.get("load_before", _QUIET + 1) <= _QUIET else "; times are rough, the machine was busy"
    columns = ["", "attention's products", "batch 1", "batch 8", "error of the logits", "other class"]
    return "\n\n".join(
        [
            f"INT8 of {report['model']} with its {report['products']} attention products in float, as it is shipped, "
            f"and in INT8, on {report['images']} images of {report['data']} "
            f"(`benchmarks/precision_attention.py`{busy}):",
            table(columns, rows),
        ]
    )


def half(report: Report, table: Table) -> str:
    """FP16 on thousands of faces and on scaled inputs."""
    top = report["largest"][0]
    kinds = list(report["results"][0]["by_kind"])
    rows = []
    for kind in kinds:
        cells = [r["by_kind"][kind] for r in report["results"]]
        counts = [f"{c['not_finite']}; {c['other_class']}" for c in cells]
        rows.append([kind, str(cells[0]["images"]), *counts])
    columns = ["", "images", *(f"{r['runtime']}: not finite; other class than FP32" for r in report["results"])]
    return "\n\n".join(
        [
            f"FP16 of {report['model']} on {report['faces']:,} faces of {report['data']} and on the same, scaled or "
            f"replaced (`benchmarks/fp16_faces.py`). The largest value inside, {top['largest']:.0f}, is "
            f"{top['times_below_limit']:.0f} times below FP16's limit:",
            table(columns, rows),
        ]
    )
