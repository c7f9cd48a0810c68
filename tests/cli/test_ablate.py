"""``ablate`` on a few synthetic faces: the table, what is shared, what is not trained twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click
import numpy as np
import pytest
from _pytest.monkeypatch import MonkeyPatch

from poster_edge.cli import ablate_table
from poster_edge.cli.ablate import command
from poster_edge.errors import UnavailableError, UsageError
from poster_edge.models.ablation import table_rows
from poster_edge.models.checkpoint import load_model
from poster_edge.models.config import model_config
from poster_edge.train import run as training


def run(*args: str) -> None:
    with click.Context(command) as context:
        command.parse_args(context, ["--device", "cpu", *args])
        context.invoke(command, **context.params)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes told apart by a bright upper or lower half, and random landmarks."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = rng.integers(0, 80, (40, 48, 48), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[24 * label : 24 * label + 24] += 120
    np.savez(folder / "d.npz", images=images, labels=labels, classes=np.array(["happy", "sad"]))
    points = rng.uniform(0.2, 0.8, (40, 68, 2)).astype(np.float16)
    trust = {"presence": np.ones(40), "self_incons": np.zeros(40)}
    np.savez(folder / "p.npz", landmarks=points, **trust)
    return folder


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    run(*options(data, out), "--table", "swap-depth")
    return out


def options(data: Path, out: Path, *more: str) -> list[str]:
    common = ["--data", str(data / "d.npz"), "--landmarks", str(data / "p.npz"), "-o", str(out)]
    return [*common, "--epochs", "1", "--landmark-epochs", "1", "--batch", "8", *more]


def test_the_table_and_its_runs(done: Path) -> None:
    rows = list(csv.DictReader((done / "swap-depth.csv").open()))
    assert [r["model"] for r in rows] == ["poster-nano@swap-0", "poster-nano@swap-1", "poster-nano"]
    assert [r["epoch"] for r in rows] == ["1", "1", "1"]
    assert all(0 <= float(r["accuracy"]) <= 1 for r in rows)
    written = json.loads((done / "swap-depth.json").read_text())
    assert (written["data"], written["landmarks"]) == ("d.npz", True)
    # 7 classes have 1,236,319 parameters; 2 have 5 · 129 less.
    assert {r["parameters"] for r in written["rows"]} == {1_236_319 - 5 * 129}
    shown = (done / "swap-depth.md").read_text()
    assert shown.count("\n") == 5
    assert "| swapped in the first 1 | poster-nano@swap-1 |" in shown
    network, info = load_model(done / "poster-nano@swap-1" / "best.safetensors")
    assert (info.model, network.config.swap_first) == ("poster-nano@swap-1", 1)


def test_landmarks_are_trained_once(done: Path) -> None:
    states = [
        (done / name / "landmarks.safetensors").read_bytes() for name in ("poster-nano@swap-0", "poster-nano@swap-1")
    ]
    assert states[0] == states[1] == (done / "landmarks.safetensors").read_bytes()
    weights = [
        load_model(done / name / "best.safetensors")[0].state_dict()["face_landback.conv1.conv.weight"]
        for name in ("poster-nano@swap-0", "poster-nano")
    ]
    assert weights[0].equal(weights[1])


def test_what_is_done_is_not_trained_again(
    data: Path, done: Path, monkeypatch: MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "TrainingRun", None)
    run(*options(data, done), "--table", "swap-depth")
    assert "poster-nano on d.npz: swap-depth" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"swap-0 was trained with other options: recipe.seed \(0, now 1\)"):
        run(*options(data, done), "--table", "swap-depth", "--seed", "1")
    with pytest.raises(UsageError, match=r"landmark_epochs \(1, now 2\)"):
        run(*options(data, done), "--table", "swap-depth", "--landmark-epochs", "2")


def test_a_row_that_does_not_fit_is_said_before_any_is_trained(
    data: Path, done: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "TrainingRun", None)
    with pytest.raises(UsageError, match=r"poster-nano was trained with other options: recipe.epochs \(1, now 2\)"):
        run(*options(data, done), "--table", "depth", "--epochs", "2")


def test_a_stopped_table_goes_on(data: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    first = table_rows(model_config("poster-nano"), "depth")[:1]  # type: ignore[arg-type]
    monkeypatch.setattr(ablate_table, "table_rows", lambda base, table: first)
    where = options(data, tmp_path, "--table", "depth")
    run(*where, "--stop-after", "0")
    assert not (tmp_path / "depth.md").exists()
    state = json.loads((tmp_path / "poster-nano@depth-1" / "config.json").read_text())
    assert state["model"] == "poster-nano@depth-1"
    run(*where)
    rows = list(csv.DictReader((tmp_path / "depth.csv").open()))
    assert [(r["model"], r["epoch"]) for r in rows] == [("poster-nano@depth-1", "1")]


def test_counting_needs_no_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run("--table", "components", "--dry-run", "-o", str(tmp_path))
    out = capsys.readouterr().out
    assert "landmark only" in out
    assert "accuracy" not in out
    rows = json.loads((tmp_path / "components.json").read_text())["rows"]
    assert rows[-1]["parameters"] == 1_236_319
    assert rows[-1]["accuracy"] is None


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((), UsageError, "needs --data DATA and -o DIR"),
        (("--dry-run", "--model", "cf-dan-nano"), UsageError, "are POSTER's; cf-dan-nano has none"),
        (("--dry-run", "--model", "poster-nano@swap-1"), UsageError, "is a variant itself"),
        (("--device", "cuda:99", "{data}"), UnavailableError, "--device cuda:99: torch .* sees 0 GPUs"),
        (("--device", "gpu", "{data}"), UsageError, "--device gpu: expected auto, cpu or cuda:N"),
    ],
)
def test_refusals(args: tuple[str, ...], error: type[Exception], message: str, data: Path, tmp_path: Path) -> None:
    given = [b for a in args for b in (options(data, tmp_path) if a == "{data}" else [a])]
    with pytest.raises(error, match=message):
        run("--table", "levels", *given)
