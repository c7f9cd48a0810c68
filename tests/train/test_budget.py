"""A training's time decides how many epochs it has, while the rate does not depend on their number yet."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from poster_edge.data.faces import FaceSet, load_faces
from poster_edge.models.config import model_config
from poster_edge.train.budget import DECIDED_AFTER, Budget
from poster_edge.train.loop import Device
from poster_edge.train.recipe import recipe_for
from poster_edge.train.reporter import Silence
from poster_edge.train.run import TrainingRun
from poster_edge.train.state import load_state


@dataclass(frozen=True)
class Clock(Budget):
    """A time into which six epochs fit on any machine."""

    def epochs(self, seconds: list[float], *, now: float | None = None) -> int:  # type: ignore[override]
        assert len(seconds) == DECIDED_AFTER
        assert all(s > 0 for s in seconds)
        return 6


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    path = tmp_path_factory.mktemp("data") / "d.npz"
    images = rng.integers(0, 255, (32, 48, 48), dtype=np.uint8)
    np.savez(path, images=images, labels=labels, classes=np.array(["happy", "sad"]))
    return load_faces(path)


def start(folder: Path, faces: FaceSet, *, epochs: int, budget: Budget | None, resume: bool = False) -> TrainingRun:
    recipe = replace(recipe_for(model_config("cf-dan-nano")), epochs=epochs, batch=8, warmup=3, schedule="cosine")
    run = TrainingRun(
        folder,
        "cf-dan-nano",
        faces,
        None,
        recipe=recipe,
        landmark_epochs=1,
        device=Device("cpu"),
        reporter=Silence(),
        budget=budget,
    )
    run.start(resume=resume)
    return run


@pytest.mark.parametrize(
    ("seconds", "now", "epochs"),
    [
        # 95 % of 80 s, 2 s each, after three; the first, slower one is not what the others will be like.
        ([9.0, 2.0, 2.0], 120.0, 3 + 38),
        ([4.0], 110.0, 1 + 21),
        ([2.0, 2.0, 2.0], 199.0, 4),
        ([2.0, 2.0, 2.0], 260.0, 4),
    ],
    ids=["usual", "first epoch alone", "hardly any time", "late"],
)
def test_epochs_that_fit(seconds: list[float], now: float, epochs: int) -> None:
    assert Budget(100.0, began=100.0).epochs(seconds, now=now) == epochs


def test_equals_a_run_of_so_many_epochs(tmp_path: Path, faces: FaceSet) -> None:
    """To the bit, though their number was not known in the beginning, and though the run was resumed."""
    known = start(tmp_path / "known", faces, epochs=6, budget=None)
    assert known.train_expression()
    found = start(tmp_path / "found", faces, epochs=40, budget=Clock(60.0))
    assert found.train_expression()
    expected = load_state(tmp_path / "known" / "last.safetensors")
    state = load_state(tmp_path / "found" / "last.safetensors")
    assert state["epoch"] == 6
    assert all(torch.equal(v, state["model"][k]) for k, v in expected["model"].items())
    config = json.loads((tmp_path / "found" / "config.json").read_text())
    assert config["recipe"]["epochs"] == 6
    change = {"after_epoch": 3, "epochs": [40, 6], "within_minutes": 1.0}
    assert config["schedule_changes"] == [change]
    again = start(tmp_path / "found", faces, epochs=40, budget=Clock(60.0), resume=True)
    assert again.recipe.epochs == 6
    assert again.train_expression()
    assert json.loads((tmp_path / "found" / "config.json").read_text())["schedule_changes"] == [change]


def test_a_short_recipe_lasts_until_it_is_decided(tmp_path: Path, faces: FaceSet) -> None:
    run = start(tmp_path / "r", faces, epochs=1, budget=Clock(60.0))
    assert run.train_expression()
    assert load_state(tmp_path / "r" / "last.safetensors")["epoch"] == 6
