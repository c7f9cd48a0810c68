"""torchrun with two processes: the result of one process with the same batches, and a run either of them goes on with.

Everything is computed in float64 (``double_precision.py``), where nothing but a mistake can make the two differ: in
float32 Adam turns rounding errors of tiny gradients into steps of the full rate.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from poster_edge.cli.main import cli
from poster_edge.config import Preprocess
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import ModelInfo, save_checkpoint
from poster_edge.models.config import model_config
from poster_edge.train.state import load_state

#: BatchNorm everywhere, SAM, mixed pairs, a random order with replacement, averaged weights, a teacher that each asks
#: about its part of the images; rates that do not depend on the number of epochs.
RECIPE = """
about = "all that several processes have to agree on"
model = "cf-dan-nano"
[train]
epochs = 2
batch = 16
warmup = 0
lr = 1e-3
schedule = "exponential"
factor = 0.9
sam_rho = 0.05
mixup = 0.2
cutmix = 1.0
sampling = "balanced"
ema_decay = 0.9
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3 % 2
    images = rng.integers(0, 80, (40, 48, 48), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[24 * label : 24 * label + 24] += 120
    np.savez(tmp_path / "d.npz", images=images, labels=labels, classes=np.array(["happy", "sad"]))
    (tmp_path / "r.toml").write_text(RECIPE)
    torch.manual_seed(0)
    teacher = build_network(model_config("cf-dan-nano", num_classes=2))
    info = ModelInfo("cf-dan-nano", ("happy", "sad"), Preprocess(size=48, colour="gray"), "custom")
    save_checkpoint(tmp_path / "t.safetensors", teacher.state_dict(), info)
    teaching = ["--teacher", str(tmp_path / "t.safetensors"), "--teacher-view", "plain"]
    return [
        "train",
        *("--recipe", str(tmp_path / "r.toml"), "--data", str(tmp_path / "d.npz"), "--device", "cpu"),
        *teaching,
    ]


def test_two_processes_do_what_one_does(tmp_path: Path, arguments: list[str]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).with_name("double_precision.py"))
    done = subprocess.run(
        [*launcher, script, *arguments, "-o", str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("metrics epoch 1:") == 1, "one process talks"
    written = {p.name for p in (tmp_path / "two").iterdir()}
    assert written == {"config.json", "metrics.csv", "last.safetensors", "best.safetensors", "summary.json"}
    # One process takes the run of two up and adds an epoch; another trains three from the start.
    cli.main([*arguments, "-o", str(tmp_path / "two"), "--epochs", "3", "--resume"], standalone_mode=False)
    cli.main([*arguments, "-o", str(tmp_path / "one"), "--epochs", "3"], standalone_mode=False)
    found, expected = (load_state(tmp_path / name / "last.safetensors") for name in ("two", "one"))
    for part in ("model", "average"):
        for name, value in expected[part].items():
            torch.testing.assert_close(found[part][name], value, rtol=1e-7, atol=1e-9, msg=f"{part} {name}")
    for one, two in zip(expected["history"], found["history"], strict=True):
        assert {k: v for k, v in two.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in one.items() if k != "seconds"}, rel=1e-7
        )
    assert found["best"] == expected["best"]
