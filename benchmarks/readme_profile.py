"""Figures of docs/profile.md: where the time goes here, and what bounds POSTER on other devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poster_edge.config import DEFAULT_MODEL

Table = Callable[[list[str], list[list[str]]], str]
MODELS = (DEFAULT_MODEL, "poster")
#: Kinds of layers that are named; the rest is "others".
_KINDS = 5


def page(results: Path, table: Table) -> str:
    """All tables; what has not been measured is left out."""
    found = {n: json.loads(p.read_text()) for n in MODELS if (p := results / f"profile_{n}.json").is_file()}
    if not found:
        return "Not measured yet: `make bench PART=profiles`."
    parts = [_stages(found, table), *_layers(found, table)]
    bounds = results / "roofline_poster.json"
    return "\n\n".join([*parts, *([_bounds(json.loads(bounds.read_text()), table)] if bounds.is_file() else [])])


def _stages(found: dict[str, Any], table: Table) -> str:
    profiles = [(n, p) for n, d in found.items() for p in d["profiles"].values()]
    names = list(dict.fromkeys(r["name"] for _, p in profiles for r in p["stages"]["rows"]))
    rows = []
    for name, profile in profiles:
        times = {r["name"]: f"{r['median_ms']:.2f}" for r in profile["stages"]["rows"]}
        rows.append([f"`{name}`, {profile['model']['runtime']}", *(times.get(n, "–") for n in names)])
    first = next(iter(found.values()))
    machine = first["environment"]
    frames = profiles[0][1]["stages"]["frames"]
    return (
        f"One photo with one face, {frames} times, {first['threads']} threads of {machine['cpu']}, "
        f"{machine['date']} (`benchmarks/profiles.py`, `profile_*.json`): median ms of each stage."
        f"{_noise(profiles)}\n\n" + table(["", *names], rows)
    )


def _layers(found: dict[str, Any], table: Table) -> list[str]:
    totals, kinds = [], []
    for name, record in found.items():
        for profile in record["profiles"].values():
            layers = profile["layers"]
            label = f"`{name}`, {layers['runtime']}"
            here = profile["bounds_here_us"]
            cells = [f"{here[k] / 1e3:.2f}" if here else "–" for k in ("ideal", "fused", "layers")]
            share = f"{here['fused'] / 10 / layers['plain_ms']:.0f} %" if here else "–"
            totals.append([label, f"{layers['count']}", f"{layers['plain_ms']:.2f}", *cells, share])
            by_kind = sorted(layers["by_kind"].items(), key=lambda item: -item[1]["ms"])
            whole = sum(k["ms"] for _, k in by_kind)
            named = [f"{kind} {k['ms'] / whole:.0%}" for kind, k in by_kind[:_KINDS]]
            kinds.append([label, ", ".join(named), f"{sum(k['ms'] for _, k in by_kind[_KINDS:]) / whole:.0%}"])
    return [
        "The network alone, batch 1, in ms, and what bounds it from below at the rates measured on this CPU; PyTorch's "
        "operators are not the ONNX graph's, so there is no bound for it:\n\n"
        + table(["", "layers", "measured", "ideal", "fused", "layers' bound", "fused / measured"], totals),
        "Which kinds of layers take the time, by the runtime's own profiler:\n\n"
        + table(["", "most of it", "others"], kinds),
    ]


def _bounds(record: dict[str, Any], table: Table) -> str:
    rows = []
    for row in record["bounds"]:
        derived = "?" * bool(row["rests_on_derived_figures"])
        cells = [f"{row[k] / 1e3:.2f}{derived}" for k in ("ideal_us", "fused_us", "layers_us")]
        rows.append([f"`{row['target']}`", row["precision"].upper(), str(row["batch"]), *cells])
    return (
        f"Bounds of POSTER ({record['flops'] / 1e9:.1f} GFLOPs, {record['weights_bytes_fp32'] / 1e6:.0f} MB of weights "
        "in FP32) on devices that are not here, in ms: nothing is faster, real code is slower "
        "(`roofline_poster.json`):\n\n" + table(["", "", "batch", "ideal", "fused", "layers"], rows)
    )


def _noise(profiles: list[tuple[str, Any]]) -> str:
    noisy = [f"{n} on {p['model']['runtime']}" for n, p in profiles if p["noise"]["noisy"]]
    return f" **NOISY**, to be repeated: {', '.join(noisy)}." if noisy else ""
