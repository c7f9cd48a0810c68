"""POSTER's real size: all depths chained with rebuildable weights, and the table that a run of it left."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = [*(f"depth {i}" for i in range(1, 9)), "logits"]
#: Three times the bar of one depth: errors hardly add up along the residual stream.
BARS = {"fp32": 3e-6, "fp16": 3e-3, "w8a16": 9e-3}


def verify(path: Path, precisions: list[str]) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["precision"], r["stage"]) for r in rows] == [(p, s) for p in precisions for s in STAGES]
    for r in rows:
        error, own = float(r["error"]), float(r["torch_error"])
        assert error <= BARS[r["precision"]], r
        # PyTorch has no INT8 weights; what they cost by themselves stands beside.
        assert r["precision"] == "w8a16" or error <= 1.5 * own, r
        assert r["ok"] == "True", r


def test_committed_table() -> None:
    verify(ROOT / "benchmarks" / "results" / "kernels_golden.csv", list(BARS))


@pytest.mark.campaign
@pytest.mark.parametrize("precision", BARS)
def test_all_depths_chained(precision: str, shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    words = ["--golden", str(shared / "golden"), "--precisions", precision, "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "benchmarks/kernels_golden.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verify(tmp_path / "kernels_golden.csv", [precision])
