"""The networks beside POSTER train by the same loop, with a recipe of their own and without landmarks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from poster_edge.calib.temperature import fit_temperature
from poster_edge.data.faces import FaceSet, load_faces
from poster_edge.errors import UsageError
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import load_model
from poster_edge.models.config import model_config
from poster_edge.train.expression import predict
from poster_edge.train.loop import Device
from poster_edge.train.recipe import Recipe, recipe_for
from poster_edge.train.run import TrainingRun
from poster_edge.train.starting_weights import StartingWeights


class Silent:
    """Reports to nobody."""

    def start(self, phase: str, steps: int) -> None:
        pass

    def tick(self) -> None:
        pass

    def epoch(self, phase: str, row: dict[str, float]) -> None:
        pass


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """Two classes told apart by a bright upper or lower half, with noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    images = rng.integers(0, 80, (48, 48, 48), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[24 * label : 24 * label + 24] += 120
    path = tmp_path_factory.mktemp("data") / "d.npz"
    np.savez(path, images=images, labels=labels, classes=np.array(["happy", "sad"]))
    return load_faces(path)


def start(
    name: str,
    folder: Path,
    faces: FaceSet,
    *,
    epochs: int = 1,
    init: Path | None = None,
    trunk: Path | None = None,
) -> TrainingRun:
    recipe = replace(recipe_for(model_config(name)), epochs=epochs, batch=8, lr=1e-3)
    run = TrainingRun(
        folder,
        name,
        faces,
        None,
        recipe=recipe,
        landmark_epochs=1,
        device=Device("cpu"),
        reporter=Silent(),
        weights=StartingWeights(init, trunk),
    )
    run.start(resume=False)
    return run


def test_cf_dan_learns_and_comes_back(tmp_path: Path, faces: FaceSet) -> None:
    name = "cf-dan-nano"
    run = start(name, tmp_path / "r", faces, epochs=4)
    assert run.train_landmarks() == {}
    assert run.train_expression()
    summary = run.finish(fit_temperature, {})
    assert summary["validation"]["accuracy"] == 1.0
    assert not summary["landmarks"]
    model, info = load_model(tmp_path / "r" / "best.safetensors")
    assert (model.config.variant, model.config.num_classes, info.classes) == (name, 2, ("happy", "sad"))


@pytest.mark.parametrize("name", ["fer-vt-nano", "cf-dan-nano"])
def test_starts_with_a_trunk(name: str, tmp_path: Path, faces: FaceSet) -> None:
    source = start(name, tmp_path / "source", faces).model.trunk
    torch.nn.init.constant_(source.conv1.weight, 0.25)
    torch.save(source.state_dict(), tmp_path / "resnet.pth")
    run = start(name, tmp_path / "r", faces, trunk=tmp_path / "resnet.pth")
    assert bool((run.model.trunk.conv1.weight == 0.25).all())
    assert "resnet.pth sha256:" in (tmp_path / "r" / "config.json").read_text()
    with pytest.raises(UsageError, match="leave out --trunk"):
        start(name, tmp_path / "b", faces, init=tmp_path / "x.safetensors", trunk=tmp_path / "resnet.pth")


def test_cf_dan_has_its_own_recipe() -> None:
    """What the paper states: AdamW, decay 1e-4, batch 32, plain cross-entropy."""
    recipe = recipe_for(model_config("cf-dan"))
    stated = Recipe(
        optimizer="adamw", weight_decay=1e-4, batch=32, label_smoothing=0.0, ema_decay=0.0, warmup=0, lr=1e-4
    )
    assert recipe == stated
    assert (recipe.schedule, recipe.epochs) == ("cosine", 40)


@pytest.mark.parametrize("name", ["poster-nano", "fer-vt-nano", "cf-dan-nano"])
def test_a_process_without_an_image_predicts_nothing(name: str) -> None:
    network = build_network(model_config(name, num_classes=5))
    images, rows = torch.zeros(2, 1, 48, 48, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    assert predict(network, images, rows, lambda pixels: pixels.expand(-1, 3, -1, -1), Device()).shape == (0, 5)
