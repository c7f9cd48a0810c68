"""What a GPU machine wrote, as tables and a plot for benchmarks/results."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from gpu_common import Row
from numpy.typing import NDArray

from poster_edge.files import write_atomic

_INK, _GRID, _FLOOR = (40, 40, 40), (225, 225, 225), (60, 60, 220)
#: Blue, green and red of a bar by how its mode begins.
_COLOURS = {"eager": (170, 170, 170), "sdpa": (200, 160, 90), "compile": (90, 170, 240), "fused": (90, 160, 60)}
_COLOURS["w8a16"] = (160, 90, 150)
_LINE, _LABEL, _BAR = 22, 330, 420


def make_tables(folder: Path, out: Path) -> None:
    """Write gpu_check.csv, gpu_kernels.csv, gpu_sweep.csv, gpu_bench.csv and gpu_bench.png, as far as there is data.

    Args:
        folder: what ``gpu.py`` wrote.
        out: where the tables go.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("gpu_*.json"))}
    if not {"gpu_check", "gpu_bench"} & set(found):
        sys.exit(f"{folder} has neither gpu_check.json nor gpu_bench.json: copy them from the GPU machine")
    if check := found.get("gpu_check"):
        _write(out / "gpu_check.csv", check["rows"], check["environment"])
    if bench := found.get("gpu_bench"):
        head = bench["environment"]
        _write(out / "gpu_bench.csv", bench["rows"], {**head, **bench.get("ceilings", {})})
        _write(out / "gpu_kernels.csv", bench.get("kernels", []), head)
        _write(out / "gpu_sweep.csv", bench.get("sweep", []), head)
        picture = plot([r for r in bench["rows"] if "p50_ms" in r and r.get("cache") != "warm"], head)
        done, data = cv2.imencode(".png", picture)
        assert done
        write_atomic(out / "gpu_bench.png", data.tobytes())


def _write(path: Path, rows: list[Row], head: dict[str, Any]) -> None:
    if not rows:
        return
    # PyTorch's own error; its version is in the head.
    rows = [{("torch_error" if k == "torch" else k): v for k, v in row.items()} for row in rows]
    columns = list(dict.fromkeys(name for row in [*rows, head] for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in {**row, **head}.items()})
    print(path)


def plot(rows: list[Row], head: dict[str, Any]) -> NDArray[np.uint8]:
    """Bars of medians on a logarithmic scale, a block for each part and batch, with its floor as a red line.

    Args:
        rows: of ``gpu.py bench``, with times.
        head: the record's environment.

    Returns:
        picture (H, W, 3) in BGR.
    """
    blocks: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        blocks.setdefault((row["what"], row["batch"]), []).append(row)
    height = 60 + sum(_LINE * (len(b) + 2) for b in blocks.values())
    image = np.full((height, _LABEL + _BAR + 150, 3), 255, np.uint8)
    title = f"{head['device']}, torch {head['torch']}: median ms of a call, cold L2; bars: logarithmic; red: floor"
    _text(image, title.replace("µ", "u"), 12, 28, 0.5)
    y = 52
    for (what, batch), members in blocks.items():
        _text(image, f"{what}, batch {batch}", 12, y + 14, 0.5)
        y += _LINE
        values = [v for r in members for v in (r["p50_ms"], r.get("floor_ms")) if v]
        low, high = 0.7 * min(values), max(values) * 1.05
        for row in members:
            _bar(image, row, y, low, high)
            y += _LINE
        y += _LINE
    return image


def _bar(image: NDArray[np.uint8], row: Row, y: int, low: float, high: float) -> None:
    def at(value: float) -> int:
        return _LABEL + int(_BAR * np.log(value / low) / np.log(high / low))

    colour = next((c for k, c in _COLOURS.items() if row["mode"].startswith(k)), _GRID)
    _text(image, row["mode"], 36, y + 14, 0.45)
    cv2.rectangle(image, (_LABEL, y + 3), (at(row["p50_ms"]), y + _LINE - 4), colour, -1)
    if row.get("floor_ms"):
        cv2.line(image, (at(row["floor_ms"]), y), (at(row["floor_ms"]), y + _LINE), _FLOOR, 1)
    _text(image, f"{row['p50_ms']:.3g}", at(row["p50_ms"]) + 6, y + 14, 0.45)


def _text(image: NDArray[np.uint8], text: str, x: int, y: int, size: float) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)
