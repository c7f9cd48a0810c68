"""``--compile`` with Inductor: an epoch on toy faces and a photo, really translated to C++, compiled and run."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.campaign
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of faces, told apart by a bright upper or lower half."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = rng.integers(0, 80, (40, 48, 48), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[24 * label : 24 * label + 24] += 120
    path = tmp_path_factory.mktemp("data") / "d.npz"
    np.savez(path, images=images, labels=labels, classes=np.array(["happy", "sad"]))
    return path


def train(folder: Path, data: Path, model: str, *options: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """``poster-edge train`` in a process of its own, whose Inductor begins with an empty cache."""
    line = [sys.executable, "-m", "poster_edge", "train", "--model", model, "--data", str(data), "-o", str(folder)]
    line += ["--epochs", "1", "--batch", "8", "--warmup", "0", "--device", "cpu", *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=1800)


def losses(folder: Path) -> list[float]:
    """Mean loss of each epoch."""
    return [float(row["train_loss"]) for row in csv.DictReader((folder / "metrics.csv").open())]


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs g++ on a CPU")
def test_an_epoch_through_inductor(tmp_path: Path, data: Path) -> None:
    cache = tmp_path / "cache"
    done = train(tmp_path / "compiled", data, "poster-nano", "--compile", cache=cache)
    assert done.returncode == 0, done.stderr
    # What it compiled lies in its cache: libraries of C++ that it wrote, forward and backward.
    assert len(list(cache.rglob("*.so"))) >= 2
    assert list(cache.rglob("*.cpp"))
    plain = train(tmp_path / "plain", data, "poster-nano", cache=cache)
    assert plain.returncode == 0, plain.stderr
    # Dropout draws other numbers in compiled code; the first epochs agree all the same.
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=0.1)


def test_without_a_compiler_it_says_so(tmp_path: Path, data: Path) -> None:
    line = [sys.executable, "-m", "poster_edge", "train", "--model", "fer-vt-nano", "--data", str(data)]
    line += ["-o", str(tmp_path / "r"), "--epochs", "1", "--batch", "8", "--device", "cpu", "--compile"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    env |= {"CXX": "no-such-compiler", "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 4, done.stderr
    assert "torch.compile cannot translate the network here" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs g++ on a CPU")
@pytest.mark.parametrize("model", ["poster-nano", "poster-mini"])
def test_a_photo_through_inductor(tmp_path: Path, model: str) -> None:
    """POSTER's backbones are translated, its attention is torch's own; the answer is the untranslated network's."""
    photo = ROOT / "poster_edge" / "zoo" / "samples" / "astronaut.jpg"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    found = []
    for options in (["--compile"], []):
        line = [sys.executable, "-m", "poster_edge", "run", "--model", model, "--runtime", "torch", *options]
        line += ["--source", str(photo), "--jsonl", "-"]
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=1800)
        assert done.returncode == 0, done.stderr
        assert (", torch.compile)" in done.stderr) == bool(options)
        found.append(json.loads(done.stdout.splitlines()[0])["faces"][0]["probabilities"])
    assert list((tmp_path / "cache").rglob("*.cpp"))
    assert found[0] == pytest.approx(found[1], abs=2e-4)
