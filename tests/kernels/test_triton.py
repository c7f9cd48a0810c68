"""The fused kernels' numbers: real weights in Triton's interpreter, against float64 and beside PyTorch.

The interpreter has to be chosen before triton is first imported, so the comparison runs in a process
of its own, the one that also writes the README's table.  It multiplies bfloat16 wrongly: that type's
numbers are checked on a GPU (``make gpu-check``), its compilation ahead of time.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from poster_edge.kernels.launch import Launch
from poster_edge.kernels.numerics import Row, depth_rows
from poster_edge.models.config import CONFIGS
from poster_edge.models.fusion import FusionStage

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
KERNELS = ("attend", "project", "expand", "contract", "mix")
#: Largest relative L2 error: of a kernel, and of a depth against weights before any rounding.
KERNEL_BARS = {"fp32": 1e-6, "fp16": 1e-3, "w8a16": 1e-3}
DEPTH_BARS = {"fp32": 1e-6, "fp16": 1e-3, "w8a16": 3e-3}
#: Without the token mixing that they were trained with, the packaged weights lose more by INT8.
UNMIXED_BAR = 4e-3
NAN = float("nan")


def rows(out: Path, *arguments: str) -> list[dict[str, str]]:
    """What the benchmark writes; it must not have found an error above its bar."""
    done = subprocess.run(
        [sys.executable, "benchmarks/kernels.py", "--out", str(out), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (out / "kernels_numerics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def verify(found: list[dict[str, str]], precisions: tuple[str, ...], batch: int) -> None:
    """Every kernel at every level and precision is there and within its bars."""
    seen = {(r["kernel"], r["precision"], r["level"], r["batch"]) for r in found}
    names = (*KERNELS, "depth")
    assert seen >= {(k, p, level, str(batch)) for k in names for p in precisions for level in "lms"}
    for r in found:
        error, own = float(r["error"]), float(r["torch_error"])
        bars = DEPTH_BARS if r["kernel"] == "depth" else KERNEL_BARS
        bar = 1e-6 if r["kernel"] == "partials" else bars[r["precision"]]
        assert error <= (UNMIXED_BAR if (r["case"], bar) == ("no-mix", DEPTH_BARS["w8a16"]) else bar), r
        # On the same INT8 weights PyTorch is as far off.
        assert (r["kernel"], r["precision"]) != ("depth", "w8a16") or error <= min(1.05 * own, float(r["bar"])), r
        # Below 6e-8 both are float32's own rounding of the same value.
        assert r["kernel"] == "partials" or error <= 1.5 * max(own, 6e-8), r


def test_packaged_model(tmp_path: Path) -> None:
    verify(rows(tmp_path, "--cases", "nano", "--batches", "1"), ("fp32", "fp16", "w8a16"), 1)


def test_rows_of_several_samples_without_mix(tmp_path: Path) -> None:
    # 3 x 37 rows: a sample straddles no tile of 64, but two of the tile of 128 rows are empty.
    found = rows(tmp_path, "--cases", "no-mix", "--batches", "3", "--precisions", "fp16")
    verify(found, ("fp16",), 3)


@pytest.mark.campaign
@pytest.mark.parametrize("case", ["nano", "no-mix"])
@pytest.mark.parametrize("batch", [2, 3, 8])
def test_larger_batches(case: str, batch: int, tmp_path: Path) -> None:
    verify(rows(tmp_path, "--cases", case, "--batches", str(batch)), ("fp32", "fp16", "w8a16"), batch)


@pytest.mark.campaign
def test_published_structure(tmp_path: Path, shared: Path) -> None:
    found = rows(tmp_path, "--cases", "poster", "--golden", str(shared / "golden"))
    verify(found, ("fp32", "fp16", "w8a16"), 1)


@pytest.mark.campaign
def test_all_depths_at_the_logits(tmp_path: Path, shared: Path) -> None:
    found = rows(tmp_path, "--cases", "logits", "--golden", str(shared / "golden"))
    assert {r["precision"] for r in found if r["kernel"] == "logits"} == {"fp32", "fp16", "w8a16"}
    assert all(float(r["error"]) <= 1.5 * float(r["torch_error"]) for r in found if r["precision"] != "w8a16")


def test_what_a_kernel_does_not_write_shows() -> None:
    config = CONFIGS["poster-nano"]
    stage = FusionStage(config, 0.0).eval()
    levels = [torch.randn(1, config.tokens, d, dtype=torch.float64) for d in config.dims]

    def idle(step: Launch, tensors: dict[str, torch.Tensor | int]) -> None:
        """A kernel that writes nothing."""

    with torch.no_grad():
        found = depth_rows(stage.state_dict(), levels, idle, case="idle", heads=config.heads, precision="fp16")
    assert {r.kernel for r in found} == {*KERNELS, "partials", "depth"}
    assert not any(r.ok for r in found)


@pytest.mark.parametrize(
    ("error", "own", "ok"),
    [
        (9e-4, NAN, True),
        (NAN, 5e-4, False),
        (1.1e-3, 1e-3, False),
        (9e-4, 5e-4, False),
        (7e-4, 5e-4, True),
        # Half a unit in the last place of FP16: both round the same value once.
        (3.5e-4, 1e-5, True),
    ],
)
def test_verdict(error: float, own: float, ok: bool) -> None:
    assert Row("x", "mix", "fp16", "l", 1, error, own, 1e-3).ok is ok
