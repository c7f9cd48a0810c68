"""What a GPU measured of the fused kernels, as docs/kernels.md shows it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

Row = dict[str, str]
Table = Callable[[list[str], list[list[str]]], str]
_RIVALS = ("sdpa + graph", "compile + graph", "compile max-autotune + graph")
#: The fused kernels between backbones that torch.compile translates.
_BOTH = "fused + compile + graph"
_KERNELS = ("attend", "project", "expand", "contract", "mix", "depth", "logits")


def tables(results: Path, table: Table) -> str:
    """Errors, times and where the time goes, from gpu_check.csv, gpu_bench.csv and gpu_kernels.csv."""
    check, bench, kernels = (_read(results / f"gpu_{n}.csv") for n in ("check", "bench", "kernels"))
    head = bench[0]
    failed = [r for r in check if r["ok"] != "True" and r["error"]]
    return "\n\n".join(
        [
            f"Measured on an {head['device']}, torch {head['torch']}, Triton {head['triton']}, {head['date']} "
            "(`make gpu-check`, `make gpu-bench`; `gpu_check.csv`, `gpu_bench.csv`, `gpu_kernels.csv`).",
            _errors(check, table),
            f"{len(check)} rows in all: kernels, depths, logits, CUDA C++ k1, folders compiled ahead, CUDA graphs, the "
            f"torch runtime, memory and streams{_plugin(check)}; {_sanitizer(check)}. {_failures(failed)}"
            f"{_without_figure(check)}",
            _times(bench, table),
            "![times](../benchmarks/results/gpu_bench.png)",
            _shares(kernels, table),
        ]
    )


def short(results: Path) -> str:
    """One sentence for the README."""
    bench = _read(results / "gpu_bench.csv")
    at = _by_mode(bench, "poster transformer", "1")
    whole, many = (_by_mode(bench, "poster", batch) for batch in ("1", "64"))
    own, all_of_it = at["fused + graph"], whole["fused + graph"]
    text = (
        f"On an {bench[0]['device']} POSTER's transformer at batch 1 takes {own:.2f} ms in a CUDA graph, "
        f"{at['eager'] / own:.0f} times as fast as eager PyTorch and {_best(at) / own:.1f} times as fast as the best "
        f"of torch.compile and SDPA in CUDA graphs. The whole network takes {all_of_it:.2f} ms "
        f"({whole['eager'] / all_of_it:.0f} and {_best(whole) / all_of_it:.1f} times as fast)"
    )
    if _BOTH in whole and _BOTH in many:
        text += (
            f", and with `--compile`, which translates the backbones too, {whole[_BOTH]:.2f} ms "
            f"({whole['eager'] / whole[_BOTH]:.0f} and {_best(whole) / whole[_BOTH]:.1f} times); at batch 64 that is "
            f"{_best(many) / many[_BOTH]:.2f} times as fast as the best of the two"
        )
    return text + " (FP16, cold L2; [docs/kernels.md](docs/kernels.md))."


def _read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _errors(rows: Sequence[Row], table: Table) -> str:
    lines = []
    for model in ("nano", "no-mix", "poster"):
        for kernel in _KERNELS:
            cells = []
            for precision in ("fp32", "fp16", "bf16", "w8a16"):
                group = [r for r in rows if r["what"].split()[:2] == [model, kernel] and r["precision"] == precision]
                worst = [max((float(r[k]) for r in group if r[k]), default=0.0) for k in ("error", "torch_error")]
                cells.append(f"{worst[0]:.1e} ({worst[1]:.1e})" if group else "")
            if any(cells):
                lines.append([model, kernel, *cells])
    note = "Relative L2 error against float64, worst level and batch; in brackets PyTorch's own in the same type:"
    return note + "\n\n" + table(["weights", "", "fp32", "fp16", "bf16", "w8a16"], lines)


def _sanitizer(rows: Sequence[Row]) -> str:
    notes = {r["what"]: r["note"] for r in rows if r["what"].startswith("compute-sanitizer")}
    return "; ".join(f"{what}: {note}" for what, note in notes.items())


def _plugin(rows: Sequence[Row]) -> str:
    """The plugin's rows in words, with the worst error of each precision; nothing where there are none."""
    worst: dict[str, float] = {}
    for r in rows:
        if r["what"].startswith("TensorRT plugin") and r["error"]:
            worst[r["precision"]] = max(worst.get(r["precision"], 0.0), float(r["error"]))
    errors = ", ".join(f"{error:.1e} in {precision}" for precision, error in worst.items())
    return f", the TensorRT plugin (largest error {errors})" if errors else ""


def _without_figure(rows: Sequence[Row]) -> str:
    """Rows that failed before there was an error to show."""
    failed = [r for r in rows if r["ok"] == "False" and not r["error"] and r["note"] != "exit code 1: "]
    named = "; ".join(f"{r['what']} ({r['note']})" for r in failed)
    return f" Failed: {named}." if named else ""


def _failures(rows: Sequence[Row]) -> str:
    if not rows:
        return "None above its bar."
    named = "; ".join(f"{r['what']} in {r['precision']}, {float(r['error']):.1e}" for r in rows)
    return f"Above its bar: {named}."


def _by_mode(rows: Sequence[Row], what: str, batch: str) -> dict[str, float]:
    """Mode -> median in ms, cold L2."""
    return {
        r["mode"]: float(r["p50_ms"])
        for r in rows
        if (r["what"], r["batch"], r["cache"]) == (what, batch, "cold") and r["p50_ms"]
    }


def _best(times: dict[str, float]) -> float:
    return min(times[m] for m in _RIVALS if m in times)


def _times(rows: Sequence[Row], table: Table) -> str:
    modes = ["eager", *_RIVALS, "fused", "fused + graph", "w8a16 + graph", _BOTH]
    lines = []
    for what, batch in dict.fromkeys((r["what"], r["batch"]) for r in rows if r["batch"]):
        at = _by_mode(rows, what, batch)
        if "fused + graph" not in at:
            continue
        fused = at["fused + graph"]
        floor = next(
            float(r["floor_share"])
            for r in rows
            if (r["what"], r["batch"], r["mode"], r["cache"]) == (what, batch, "fused + graph", "cold")
        )
        lines.append(
            [
                what,
                batch,
                *(f"{at[m]:.3g}" if m in at else "" for m in modes),
                f"{at['eager'] / fused:.1f}x",
                f"{_best(at) / fused:.2f}x",
                f"{_best(at) / at[_BOTH]:.2f}x" if _BOTH in at else "",
                f"{floor:.1%}",
            ]
        )
    note = (
        "Medians in ms, FP16, cold L2, weights of their own in every depth. The last columns: fused + graph, times as "
        "fast as eager, and as the best of SDPA and torch.compile in CUDA graphs; fused + compile + graph, times as "
        "fast as that best; fused + graph, share of the floor. An empty cell was not measured or not timed (above its "
        "bar):"
    )
    gains = ["of eager", "of the best", "with compile, of the best", "of the floor"]
    return note + "\n\n" + table(["", "batch", *modes, *gains], lines)


def _shares(rows: Sequence[Row], table: Table) -> str:
    names = [f"{k}_kernel" for k in ("attend", "project", "expand", "contract", "mix")]
    lines = []
    for what in dict.fromkeys(r["what"] for r in rows):
        own = {r["kernel"]: r for r in rows if r["what"] == what}
        whole = sum(float(r["forward_us"]) for r in own.values())
        rest = whole - sum(float(own[n]["forward_us"]) for n in names if n in own)
        cells = [f"{float(own[n]['forward_us']):.0f}" if n in own else "" for n in names]
        lines.append([what, *cells, f"{rest:.0f}", f"{whole:.0f}"])
    note = (
        "Where the time of one forward pass of the transformer goes, µs in the GPU by torch's profiler (8 launches of "
        "each; "
        '"rest" is the pyramid\'s entry and exit in PyTorch):'
    )
    return note + "\n\n" + table(["", "attend", "project", "expand", "contract", "mix", "rest", "sum"], lines)
