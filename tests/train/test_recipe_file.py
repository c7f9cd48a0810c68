"""Recipes as TOML files: the packaged ones say what was published, and every mistake in one is named."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from poster_edge.errors import InputError, UsageError
from poster_edge.models.config import CONFIGS
from poster_edge.train.limits import Limits
from poster_edge.train.recipe import AUGMENTATIONS, LossTerm, Recipe, learning_rate
from poster_edge.train.recipe_file import load_recipe, parse_recipe, recipe_names

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
HEAD = 'about = "mine"\nmodel = "poster-nano"\n'


def test_the_five_recipes_are_there() -> None:
    wanted = {"poster-rafdb-official", "poster-paper", "fer-vt", "cf-dan", "poster-nano"}
    assert wanted <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_are_whole(name: str) -> None:
    found = load_recipe(name)
    assert found.name == name
    assert found.about
    assert found.model in CONFIGS


def test_the_official_recipe_says_what_the_authors_code_does() -> None:
    recipe = load_recipe("poster-rafdb-official").recipe
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("adam", 4e-5, 0.0)
    assert (recipe.sam_rho, recipe.sam_hold_norm) == (0.05, False)
    assert recipe.loss == (LossTerm(2.0, 0.2), LossTerm(1.0, 0.0))
    assert (recipe.batch, recipe.epochs, recipe.seed, recipe.colour) == (200, 300, 123, "bgr")
    assert not recipe.freeze_landmark_bn
    assert (recipe.augmentation.erase, recipe.augmentation.erase_area) == (0.5, (0.02, 0.1))
    assert (255 * recipe.augmentation.noise_std) ** 2 == pytest.approx(30, rel=1e-3)


def test_the_papers_recipe_differs_where_the_paper_does() -> None:
    code, paper = (load_recipe(n).recipe for n in ("poster-rafdb-official", "poster-paper"))
    assert (paper.batch, paper.drop_path, paper.freeze_landmark_bn) == (100, 0.01, True)
    # 2 LS(0.2) + CE is 3 LS(0.4 / 3).
    assert paper.label_smoothing == pytest.approx(sum(t.weight * t.smoothing for t in code.loss) / 3)
    assert paper.augmentation == code.augmentation


def test_affectnet_is_drawn_with_balanced_classes() -> None:
    recipe = load_recipe("poster-affectnet-official").recipe
    assert (recipe.sampling, recipe.lr, recipe.colour) == ("balanced", 2e-6, "rgb")


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("poster-mini", "train_poster-mini_fer2013/h200-194"),
        ("cf-dan-48-trunk", "train_cf-dan-48-trunk_fer2013/taught-0"),
        ("poster-scratch", "train_poster_fer2013/h200"),
    ],
)
def test_our_recipes_are_those_of_the_recorded_runs(name: str, run: str) -> None:
    record = json.loads((RESULTS / run / "config.json").read_text())
    recipe = json.loads(json.dumps(asdict(load_recipe(name).recipe)))
    assert {**record["recipe"], "epochs": 0} == {**recipe, "epochs": 0}, "their number is what fitted into the time"


def test_exponential_rate_falls_once_an_epoch() -> None:
    recipe = Recipe(schedule="exponential", warmup=0, lr=4e-5, factor=0.98)
    rates = [learning_rate(recipe, p) for p in (0, 0.5, 0.999, 1, 1.5, 10, 299.9)]
    assert rates == pytest.approx([4e-5] * 3 + [4e-5 * 0.98] * 2 + [4e-5 * 0.98**10, 4e-5 * 0.98**299])


def test_own_file_with_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + "[train]\nlr = 1\ndrop_path = 0.2\n[train.augmentation]\nerase_area = [0.1, 0.2]\n")
    found = load_recipe(str(path))
    assert (found.name, found.model, found.recipe.lr, found.recipe.drop_path) == ("mine", "poster-nano", 1.0, 0.2)
    assert found.recipe.augmentation.erase_area == (0.1, 0.2)
    assert found.recipe.epochs == Recipe().epochs


def test_augmentation_by_name() -> None:
    strong = parse_recipe((HEAD + '[train]\naugmentation = "strong"').encode(), "a.toml").recipe
    assert strong.augmentation == AUGMENTATIONS["strong"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("about = 1", "a.toml: about is 1, expected a text"),
        (HEAD, r"a.toml: expected a table \[train\]"),
        (HEAD + "[train]\n[more]", "a.toml: unknown key more, expected about, model, train"),
        ('about = ""\nmodel = "poster-xl"\n[train]', "a.toml: model is 'poster-xl', expected one of poster-nano,"),
        (HEAD + "[train]\nbatchsize = 8", "a.toml: unknown key train.batchsize, expected one of epochs, warmup, batch"),
        (HEAD + "[train]\nbatch = 8.5", "a.toml: train.batch is 8.5, expected a whole number"),
        (HEAD + "[train]\nbatch = true", "a.toml: train.batch is True, expected a whole number"),
        (HEAD + '[train]\nlr = "fast"', "a.toml: train.lr is 'fast', expected a number"),
        (HEAD + "[train]\nlr = nan", "a.toml: train.lr is nan, expected above 0"),
        (HEAD + "[train]\nbatch = 1", "a.toml: train.batch is 1, expected 2 or more"),
        (HEAD + "[train]\nbatch = 9\naccumulate = 2", "a.toml: train.accumulate is 2, expected a number that divides"),
        (HEAD + '[train]\noptimizer = "sgd"', "a.toml: train.optimizer is sgd, expected adamw or adam"),
        (HEAD + '[train]\nschedule = "x"', "a.toml: train.schedule is x, expected cosine, plateau or exponential"),
        (HEAD + "[train]\nfreeze_landmark_bn = 1", "train.freeze_landmark_bn is 1, expected true or false"),
        (HEAD + "[train]\nloss = 2", "a.toml: train.loss is 2, expected a list of tables"),
        (HEAD + "[[train.loss]]\nweight = 0", "a.toml: train.loss.0..weight is 0.0, expected above 0"),
        (
            HEAD + '[train]\naugmentation = "mild"',
            "train.augmentation is 'mild', expected a table or none or standard",
        ),
        (HEAD + "[train.augmentation]\nerase = 2", "a.toml: train.augmentation.erase is 2.0, expected from 0 to 1"),
        (
            HEAD + "[train.augmentation]\nblur = 2",
            "unknown key train.augmentation.blur, expected one of flip, rot",
        ),
        (HEAD + "[train.augmentation]\nerase_area = [0.2]", "erase_area is .0.2., expected a list of 2 values"),
        (HEAD + "[train.augmentation]\nerase_area = [0.2, 0.1]", "erase_area is 0.2 to 0.1, expected two rising"),
        ("about =", "a.toml: not readable as TOML"),
    ],
)
def test_mistakes_are_named_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_recipe(text.encode(), "a.toml")
    assert "\n" not in str(caught.value)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe 'poster'; packaged: cf-dan, .*; a file's name ends in .toml"):
        load_recipe("poster")
    with pytest.raises(InputError, match="cannot read the recipe .*no.toml: No such file"):
        load_recipe(str(tmp_path / "no.toml"))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(low=2), "2 or more"),
        (Limits(above=0), "above 0"),
        (Limits(low=0, below=1), "from 0 to below 1"),
        (Limits(above=0, high=1), "above 0 and up to 1"),
        (Limits(high=1), "at most 1"),
        (Limits(choices=("a",)), "a"),
    ],
)
def test_limits_in_words(limits: Limits, words: str) -> None:
    assert limits.describe() == words


def test_the_documented_recipe_works_and_all_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    block = page.split("```toml\n")[1].split("```")[0]
    found = parse_recipe(block.encode(), "mine.toml")
    assert (found.model, found.recipe.sam_rho, found.recipe.loss) == ("cf-dan-nano", 0.05, (LossTerm(2.0, 0.2),))
    assert all(f"| `{name}` |" in page for name in recipe_names())
