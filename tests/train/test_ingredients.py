"""The study of ingredients: what it changes, the faces it draws, the table it makes; the long test runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from poster_edge.cli.train import command
from poster_edge.data.faces import load_faces
from poster_edge.train.landmarks import load_landmarks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def parsed(*options: str) -> dict[str, Any]:
    return command.make_context("train", ["--data", "d.npz", *options]).params


def test_each_ingredient_is_one_change_that_train_knows() -> None:
    from ingredients import INGREDIENTS

    base = parsed()
    changed = {}
    for item in INGREDIENTS:
        found = parsed(*item.options)
        changed[item.name] = {k for k, v in found.items() if v != base[k]}
    several = changed.pop("together")
    assert several == {"augmentation", "mixup", "teacher_weight"}
    options = {item.name: item for item in INGREDIENTS}
    for name, names in changed.items():
        item = options[name]
        assert len(names) + (not item.landmarks) + (item.times > 1) == (name != "baseline"), name
        assert item.taught == ("teacher_weight" in names)
    assert len(options) == len(INGREDIENTS), "names are the runs' folders"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """FER2013's packed form with 40 training and 20 validation faces, and landmarks that tell the rows apart."""
    rng, count = np.random.default_rng(0), 60
    files = [cv2.imencode(".png", rng.integers(0, 255, (48, 48), dtype=np.uint8))[1] for _ in range(count)]
    classes, labels = np.array(["angry", "happy", "sad"]), np.arange(count) % 3
    np.savez(
        tmp_path / "d.npz",
        jpeg=np.concatenate(files),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=labels,
        split=(np.arange(count) >= 40).astype(np.uint8),
        split_names=np.array(["Training", "PublicTest"]),
        classes=classes,
    )
    points = rng.uniform(0.2, 0.8, (count, 68, 2)).astype(np.float16)
    trust = {"presence": np.ones(count, np.float16), "self_incons": np.zeros(count, np.float16)}
    np.savez(tmp_path / "p.npz", landmarks=points, labels=labels, **trust)
    return tmp_path


def test_a_subset_keeps_rows_and_splits_together(data: Path) -> None:
    from subset import write_subset

    written = write_subset(data / "d.npz", data / "p.npz", data / "out", 10, 6)
    assert write_subset(data / "d.npz", data / "p.npz", data / "out", 10, 6) == written
    faces, whole = load_faces(written[0]), load_faces(data / "d.npz")
    assert faces.classes == whole.classes
    assert (len(faces.indices("train")), len(faces.indices("validation"))) == (10, 6)
    points, all_points = load_landmarks(written[1], faces), load_landmarks(data / "p.npz", whole)
    for row in range(len(faces)):
        (origin,) = np.flatnonzero((all_points.points == points.points[row]).all(axis=(1, 2)))
        assert np.array_equal(faces.read(row), whole.read(int(origin)))
        assert (faces.labels[row], faces.roles[row]) == (whole.labels[origin], whole.roles[origin])
    everything = write_subset(data / "d.npz", data / "p.npz", data / "all", 1000, None)
    assert len(load_faces(everything[0])) == 60


def record(**changes: Any) -> dict[str, Any]:
    row = {
        "ingredient": "baseline",
        "label": "baseline",
        "options": "",
        "seed": 0,
        "epochs": 8,
        "train_images": 5990,
        "faces": 3589,
        "accuracy": 0.5,
        "accuracy_ci95": 0.016,
        "change": 0.0,
        "change_ci95": 0.0,
        "mean_class_accuracy": 0.45,
        "last_epoch_accuracy": 0.49,
        "seconds_per_epoch": 41.2,
    }
    taught = {"ingredient": "teacher", "label": "taught", "options": "--teacher-weight 0.8"}
    changed = {**row, **taught, "accuracy": 0.53, "change": 0.03, "change_ci95": 0.012}
    return {
        "environment": {"cpu": "some CPU", "date": "2026-01-01"},
        "model": "poster-nano",
        "images": 6000,
        "epochs": 8,
        "precision": "bf16",
        "threads": 1,
        "teachers": [{"name": "poster_edge/zoo/poster-nano/model.safetensors", "sha256": "0"}],
        "runs": [row, changed],
        **changes,
    }


def test_the_page_says_how_small_the_runs_were(tmp_path: Path) -> None:
    from readme import table
    from readme_ingredients import page

    assert "Not measured yet" in page(tmp_path, table)
    (tmp_path / "ingredients.json").write_text(json.dumps(record()))
    shown = page(tmp_path, table)
    assert (
        "**only 5,990** of the training images, **8 epochs**, 1 seed, 3,589 validation faces, bf16, 1 thread" in shown
    )
    assert "| taught | 8 | 53.00% ± 1.60% | +3.00 ± 1.20 | 45.00% | 49.00% |" in shown
    assert "Short runs on few images favour" in shown
    assert "The teacher is the packaged poster-nano" in shown
    (tmp_path / "ingredients.json").write_text(json.dumps(record(images="all", epochs=40, teachers=[{"name": "big"}])))
    shown = page(tmp_path, table)
    assert "the whole training split, **40 epochs**" in shown
    assert "Short runs" not in shown
    assert "packaged poster-nano" not in shown


@pytest.mark.campaign
def test_a_study_stops_goes_on_and_is_kept_apart_from_others(data: Path) -> None:
    line = [sys.executable, "benchmarks/ingredients.py", "--data", str(data / "d.npz"), "--landmarks"]
    line += [str(data / "p.npz"), "--images", "36", "--epochs", "1", "--landmark-epochs", "1", "--precision", "fp32"]
    line += [
        "--work",
        str(data / "work"),
        "--out",
        str(data / "r.json"),
        "--only",
        "no-landmarks,sam",
        "--device",
        "cpu",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def go(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*line, *more], cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    stopped = go("--minutes", "0")
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped for want of time" in stopped.stdout
    assert not (data / "r.json").exists()
    done = go()
    assert done.returncode == 0, done.stderr
    rows = json.loads((data / "r.json").read_text())["runs"]
    assert [r["ingredient"] for r in rows] == ["baseline", "no-landmarks", "sam"]
    assert rows[0]["landmark_error"] == rows[2]["landmark_error"] is not None
    assert rows[1]["landmark_error"] is None
    assert "best epoch" not in go().stderr, "nothing is trained twice"
    other = go("--epochs", "2")
    assert other.returncode != 0
    assert "is the record of another study (epochs 1, now 2)" in other.stderr
