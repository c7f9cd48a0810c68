"""Every packaged recipe for three epochs through the command line, on toy faces and the family's smallest network.

The full networks are too large for a test; everything else is the recipe's own: loss, optimiser, SAM, schedule,
sampling, augmentation, BatchNorm.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from poster_edge.cli.train import command
from poster_edge.errors import InputError, PosterEdgeError, UsageError
from poster_edge.models.checkpoint import load_model
from poster_edge.train.recipe import Recipe, learning_rate
from poster_edge.train.recipe_file import load_recipe, recipe_names

PACKAGED = Path(__file__).resolve().parents[2] / "poster_edge" / "zoo" / "poster-nano" / "model.safetensors"
NANO = {"fer-vt": "fer-vt-nano", "cf-dan": "cf-dan-nano", "cf-dan-48-trunk": "cf-dan-nano"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of colour faces, one of them rare, told apart by a bright upper or lower half."""
    rng = np.random.default_rng(0)
    labels = (np.arange(24) % 4 == 0).astype(np.int64)
    images = rng.integers(0, 80, (24, 48, 48, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[24 * label : 24 * label + 24] += 120
    path = tmp_path_factory.mktemp("data") / "d.npz"
    np.savez(path, images=images, labels=labels, classes=np.array(["happy", "sad"]))
    return path


def train(folder: Path, data: Path, *options: str) -> Result:
    arguments = ["--data", str(data), "-o", str(folder), "--device", "cpu", "--batch", "8", *options]
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of the same classes, for recipes that ask one."""
    folder = tmp_path_factory.mktemp("teacher")
    assert train(folder / "r", data, "--model", "cf-dan-nano", "--epochs", "1").exit_code == 0
    return folder / "r" / "best.safetensors"


@pytest.mark.parametrize("name", recipe_names())
def test_three_epochs(tmp_path: Path, data: Path, teacher: Path, name: str) -> None:
    model = NANO.get(name, "poster-nano")
    asked = ["--teacher", str(teacher)] if load_recipe(name).recipe.teacher_weight else []
    done = train(tmp_path / "r", data, "--recipe", name, "--model", model, "--epochs", "3", *asked)
    assert done.exit_code == 0, done.output
    wanted = replace(load_recipe(name).recipe, epochs=3, batch=8)
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["recipe"] == json.loads(json.dumps(asdict(wanted)))
    rows = list(csv.DictReader((tmp_path / "r" / "metrics.csv").open()))
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    assert all(np.isfinite(float(r["train_loss"])) for r in rows)
    network, info = load_model(tmp_path / "r" / "best.safetensors")
    assert network.config.variant == model
    assert info.preprocess.colour == wanted.colour
    # The official loss adds up to three cross-entropies, about ln 2 each on two classes.
    terms = sum(t.weight for t in wanted.loss) or 1.0
    assert float(rows[0]["train_loss"]) == pytest.approx(terms * np.log(2), rel=0.5)


def test_options_override_the_recipe(tmp_path: Path, data: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'about = "mine"\nmodel = "cf-dan-nano"\n[train]\nepochs = 9\nwarmup = 0\nseed = 7\n'
        "[[train.loss]]\nweight = 2.0\n[train.augmentation]\nrotate_deg = 3\n"
    )
    options = ["--epochs", "1", "--label-smoothing", "0.3", "--sam-rho", "0.1", "--accumulate", "2"]
    assert train(tmp_path / "r", data, "--recipe", str(mine), *options).exit_code == 0
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    recipe = config["recipe"]
    assert config["model"] == "cf-dan-nano"
    assert (recipe["epochs"], recipe["seed"], recipe["augmentation"]["rotate_deg"]) == (1, 7, 3.0)
    assert (recipe["loss"], recipe["label_smoothing"]) == ([], 0.3)
    assert (recipe["sam_rho"], recipe["accumulate"]) == (0.1, 2)


def test_recipes_are_listed() -> None:
    shown = CliRunner().invoke(command, ["--list-recipes"])
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in recipe_names())


def test_what_a_network_lacks_is_said(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="cf-dan-nano has no stochastic depth: leave drop_path out"):
        train(tmp_path / "r", data, "--model", "cf-dan-nano", "--drop-path", "0.1")
    with pytest.raises(UsageError, match="accumulate is 3, expected a number that divides a batch of 8"):
        train(tmp_path / "r", data, "--accumulate", "3")
    assert not (tmp_path / "r").exists()


TAUGHT = 'about = "taught"\nmodel = "cf-dan-nano"\n[train]\nepochs = 1\nwarmup = 0\nteacher_weight = 0.7\n'


@pytest.mark.parametrize(
    ("recipe", "options", "share"),
    [(TAUGHT, [], 0.7), (TAUGHT, ["--teacher-weight", "0.2"], 0.2), (TAUGHT.replace("0.7", "0.0"), [], 0.3)],
    ids=["of the recipe", "of the option", "of neither"],
)
def test_the_teachers_share(tmp_path: Path, data: Path, recipe: str, options: list[str], share: float) -> None:
    (tmp_path / "r.toml").write_text(recipe)
    assert train(tmp_path / "t", data, "--model", "cf-dan-nano", "--epochs", "1").exit_code == 0
    more = ["--recipe", str(tmp_path / "r.toml"), "--teacher", str(tmp_path / "t" / "best.safetensors"), *options]
    assert train(tmp_path / "r", data, *more).exit_code == 0
    assert json.loads((tmp_path / "r" / "config.json").read_text())["recipe"]["teacher_weight"] == share


def test_a_share_without_teachers_and_teachers_without_a_share(tmp_path: Path, data: Path) -> None:
    (tmp_path / "r.toml").write_text(TAUGHT)
    with pytest.raises(UsageError, match=r"share of the targets is 0\.7, but there is none: pass --teacher FILE"):
        train(tmp_path / "r", data, "--recipe", str(tmp_path / "r.toml"))
    with pytest.raises(UsageError, match=r"share of the targets is 0\.4, but"):
        train(tmp_path / "r", data, "--teacher-weight", "0.4")
    with pytest.raises(UsageError, match="asked for nothing; leave --teacher out"):
        train(tmp_path / "r", data, "--teacher", "t.safetensors", "--teacher-weight", "0")


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, data: Path) -> None:
    gone, damaged = tmp_path / "gone.safetensors", tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"{")
    for teacher in (gone, damaged):
        with pytest.raises(InputError, match=teacher.name):
            train(tmp_path / "r", data, "--model", "cf-dan-nano", "--teacher", str(teacher))
    # poster-nano's own weights know seven classes of gray faces.
    with pytest.raises(UsageError, match="but this run learns .*; it cannot teach this run"):
        train(tmp_path / "r", data, "--model", "cf-dan-nano", "--teacher", str(PACKAGED))
    assert not (tmp_path / "r").exists()
    with pytest.raises(PosterEdgeError, match=r"cannot write .*damaged\.safetensors/config\.json: .* is no folder"):
        train(damaged, data, "--model", "cf-dan-nano")


def test_learning_rates_of_the_official_schedule() -> None:
    recipe = replace(load_recipe("poster-rafdb-official").recipe, epochs=300)
    assert learning_rate(recipe, 215.5) == pytest.approx(4e-5 * 0.98**215)
    assert isinstance(recipe, Recipe)
