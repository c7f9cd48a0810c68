"""Whole training runs on a few synthetic faces: they learn, resume exactly and refuse what is wrong."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from poster_edge.calib.temperature import fit_temperature
from poster_edge.data.faces import FaceSet, load_faces
from poster_edge.errors import InputError, PosterEdgeError, UsageError
from poster_edge.models.checkpoint import load_model
from poster_edge.models.config import model_config
from poster_edge.train.landmarks import LandmarkSet, load_landmarks
from poster_edge.train.loop import Device
from poster_edge.train.plateau import Plateau
from poster_edge.train.recipe import Augmentation, LossTerm, Recipe, learning_rate, recipe_for
from poster_edge.train.run import TrainingRun
from poster_edge.train.starting_weights import StartingWeights
from poster_edge.train.state import load_state
from poster_edge.train.team import Team


class Silent:
    """Reports to nobody, and can stop the run like a power cut."""

    def __init__(self, die_after: int | None = None) -> None:
        self.steps, self.die_after = 0, die_after

    def start(self, phase: str, steps: int) -> None:
        pass

    def tick(self) -> None:
        self.steps += 1
        if self.steps == self.die_after:
            raise KeyboardInterrupt

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


def points_for(faces: FaceSet) -> LandmarkSet:
    rng = np.random.default_rng(1)
    points = rng.uniform(0.2, 0.8, (len(faces), 68, 2)).astype(np.float32)
    return LandmarkSet(points, np.ones(len(faces), bool))


def start(
    folder: Path,
    faces: FaceSet,
    *,
    epochs: int,
    resume: bool = False,
    die_after: int | None = None,
    init: Path | None = None,
    model: str = "poster-nano",
) -> TrainingRun:
    own = {"warmup": 1, "lr": 2e-3} if model == "poster-nano" else {"patience": 0, "factor": 0.5}
    run = TrainingRun(
        folder,
        model,
        faces,
        points_for(faces) if model == "poster-nano" else None,
        recipe=replace(recipe_for(model_config(model)), epochs=epochs, batch=8, **own),
        landmark_epochs=1,
        device=Device("cpu"),
        reporter=Silent(die_after),
        weights=StartingWeights(init),
    )
    run.start(resume=resume)
    return run


def test_learns_and_records(tmp_path: Path, faces: FaceSet) -> None:
    run = start(tmp_path / "r", faces, epochs=6)
    errors = run.train_landmarks()
    frozen = {k: v.clone() for k, v in run.model.face_landback.state_dict().items()}
    assert run.train_expression()
    assert all(torch.equal(v, frozen[k]) for k, v in run.model.face_landback.state_dict().items())
    summary = run.finish(fit_temperature, errors)
    assert summary["validation"]["accuracy"] == 1.0
    model, info = load_model(tmp_path / "r" / "best.safetensors")
    assert info.classes == ("happy", "sad")
    assert info.temperature == summary["temperature"]
    assert model.config.num_classes == 2
    rows = list(csv.DictReader((tmp_path / "r" / "metrics.csv").open()))
    assert [r["epoch"] for r in rows] == ["1", "2", "3", "4", "5", "6"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["train_images"] == 44


@pytest.mark.parametrize(
    ("model", "die_after"),
    # POSTER: 5 landmark steps, then into the second epoch of 5 expression steps; FER-VT: into the third epoch.
    [("poster-nano", 12), ("fer-vt-nano", 12)],
)
def test_resumes_exactly(tmp_path: Path, faces: FaceSet, model: str, die_after: int) -> None:
    whole = start(tmp_path / "whole", faces, epochs=3, model=model)
    whole.train_landmarks()
    whole.train_expression()
    torn = start(tmp_path / "torn", faces, epochs=3, die_after=die_after, model=model)
    with pytest.raises(KeyboardInterrupt):
        torn.train_landmarks()
        torn.train_expression()
    again = start(tmp_path / "torn", faces, epochs=3, resume=True, model=model)
    again.train_landmarks()
    again.train_expression()
    expected = load_state(tmp_path / "whole" / "last.safetensors")
    found = load_state(tmp_path / "torn" / "last.safetensors")
    for part in ("model", "average"):
        assert all(torch.equal(v, found[part][k]) for k, v in expected[part].items()), part
    assert found["plateau"] == expected["plateau"]
    drop = {"seconds"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in expected["history"]] == [
        {k: v for k, v in r.items() if k not in drop} for r in found["history"]
    ]


#: Everything that draws random numbers or keeps a state between steps.
EVERYTHING = Recipe(
    epochs=2,
    warmup=0,
    batch=8,
    accumulate=2,
    lr=1e-3,
    loss=(LossTerm(2.0, 0.2), LossTerm(1.0, 0.0)),
    ema_decay=0.9,
    sam_rho=0.05,
    mixup=0.2,
    cutmix=1.0,
    sampling="balanced",
    freeze_landmark_bn=False,
    schedule="exponential",
    factor=0.9,
    augmentation=Augmentation(noise=0.5, noise_std=0.05, erase_fill="mean", erase_inside=True),
)


def everything(
    folder: Path, faces: FaceSet, model: str, *, resume: bool = False, die_after: int | None = None
) -> TrainingRun:
    run = TrainingRun(
        folder,
        model,
        faces,
        None,
        recipe=EVERYTHING,
        landmark_epochs=1,
        device=Device("cpu"),
        reporter=Silent(die_after),
    )
    run.start(resume=resume)
    return run


def test_resumes_exactly_with_sam_sampler_and_parts(tmp_path: Path, faces: FaceSet) -> None:
    # A network that drops units too.
    everything(tmp_path / "whole", faces, "fer-vt-nano").train_expression()
    torn = everything(tmp_path / "torn", faces, "fer-vt-nano", die_after=7)  # in the second epoch of 5 steps
    with pytest.raises(KeyboardInterrupt):
        torn.train_expression()
    everything(tmp_path / "torn", faces, "fer-vt-nano", resume=True).train_expression()
    expected, found = (load_state(tmp_path / name / "last.safetensors") for name in ("whole", "torn"))
    for part in ("model", "average"):
        assert all(torch.equal(v, found[part][k]) for k, v in expected[part].items()), part
    for one, two in zip(expected["optimizer"]["state"].values(), found["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(v, two[k]) for k, v in one.items())
    assert [r["train_loss"] for r in expected["history"]] == [r["train_loss"] for r in found["history"]]


def test_the_landmark_streams_statistics_move_unless_frozen(tmp_path: Path, faces: FaceSet) -> None:
    run = everything(tmp_path / "r", faces, "poster-nano")
    before = {k: v.clone() for k, v in run.model.face_landback.state_dict().items()}
    run.recipe = replace(EVERYTHING, epochs=1)
    run.train_expression()
    after = run.model.face_landback.state_dict()
    moved = {k for k, v in before.items() if not torch.equal(v, after[k])}
    # No weight, but the statistics of every norm that runs; twice per step, once for each of SAM's passes.
    assert moved
    assert {k.rpartition(".")[2] for k in moved} == {"running_mean", "running_var", "num_batches_tracked"}
    assert int(after["conv1.bn.num_batches_tracked"]) == 5 * 2 * EVERYTHING.accumulate


def test_ends_early_when_nothing_gets_better(tmp_path: Path, faces: FaceSet) -> None:
    run = start(tmp_path / "r", faces, epochs=9, model="fer-vt-nano")
    run.recipe = replace(run.recipe, early_stop=2, lr=1e-12)
    assert run.train_expression()
    summary = run.finish(fit_temperature, {})
    assert (summary["epoch"], summary["epochs_done"]) == (1, 3)
    assert len((tmp_path / "r" / "metrics.csv").read_text().splitlines()) == 4
    # A resumed run knows that it has ended.
    again = start(tmp_path / "again", faces, epochs=9, model="fer-vt-nano")
    again.folder, again.recipe = tmp_path / "r", run.recipe
    assert again.train_expression()
    assert load_state(tmp_path / "r" / "last.safetensors")["epoch"] == 3


def test_a_fold_validates(tmp_path: Path, faces: FaceSet) -> None:
    people = np.array([f"S{i // 4:03}" for i in range(len(faces))])
    run = TrainingRun(
        tmp_path / "r",
        "cf-dan-nano",
        replace(faces, groups=people),
        None,
        recipe=Recipe(epochs=1, warmup=0, batch=8),
        landmark_epochs=1,
        device=Device("cpu"),
        reporter=Silent(),
        fold=(2, 10),
    )
    # Subject 1 and, of 12, subject 11 is fold 2's.
    assert run.split.validation.tolist() == [4, 5, 6, 7, 44, 45, 46, 47]
    assert run.describe()["fold"] == [2, 10]


def test_files_to_start_from_that_contradict(tmp_path: Path, faces: FaceSet) -> None:
    file = tmp_path / "x"
    with pytest.raises(UsageError, match="leave out --image-weights and --landmark-weights"):
        StartingWeights(init=file, image=file, landmark=file)
    with pytest.raises(UsageError, match="--landmark-weights brings a trained landmark stream: leave out --landmarks"):
        TrainingRun(
            tmp_path / "r",
            "poster-nano",
            faces,
            points_for(faces),
            recipe=Recipe(),
            landmark_epochs=1,
            device=Device("cpu"),
            reporter=Silent(),
            weights=StartingWeights(landmark=file),
        )


def test_a_network_without_landmarks_learns_and_refuses_them(tmp_path: Path, faces: FaceSet) -> None:
    run = start(tmp_path / "r", faces, epochs=3, model="fer-vt-nano")
    assert run.landmark_stream is None
    assert run.train_landmarks() == {}
    assert run.train_expression()
    summary = run.finish(fit_temperature, {})
    assert summary["recipe"]["optimizer"] == "adamw"
    assert "landmark_recipe" not in summary
    assert load_model(tmp_path / "r" / "best.safetensors")[0].config.variant == "fer-vt-nano"
    with pytest.raises(UsageError, match="fer-vt-nano has no landmark stream: it trains without --landmarks"):
        TrainingRun(
            tmp_path / "other",
            "fer-vt-nano",
            faces,
            points_for(faces),
            recipe=run.recipe,
            landmark_epochs=1,
            device=Device("cpu"),
            reporter=Silent(),
        )


def test_a_run_of_before_an_option_existed_goes_on(tmp_path: Path, faces: FaceSet) -> None:
    start(tmp_path / "r", faces, epochs=2)
    config = tmp_path / "r" / "config.json"
    began = json.loads(config.read_text())
    for part in ("recipe", "landmark_recipe"):
        for option in ("optimizer", "schedule", "patience", "factor"):
            del began[part][option]
        del began[part]["augmentation"]["flip"]
    config.write_text(json.dumps(began))
    start(tmp_path / "r", faces, epochs=2, resume=True)
    assert json.loads(config.read_text())["recipe"]["schedule"] == "cosine"


def test_the_rate_falls_when_the_loss_stops_falling() -> None:
    plateau = Plateau()
    recipe = Recipe(schedule="plateau", warmup=0, lr=1e-3, factor=0.1)
    rates = []
    for loss in (2.0, 1.0, 1.0, 0.99995, 1.1, 0.5, 0.6, 0.7, 0.8):
        plateau.record(loss, patience=2)
        rates.append(learning_rate(recipe, 1.0, falls=plateau.falls))
    assert rates == pytest.approx([1e-3] * 4 + [1e-4] * 3 + [1e-4, 1e-5])


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "sgd"}, {"schedule": "steps"}, {"weight_decay": -1.0}, {"label_smoothing": 1.0}],
    ids=lambda c: next(iter(c)),
)
def test_impossible_recipes_are_refused(changes: dict) -> None:
    with pytest.raises(UsageError):
        Recipe(**changes)


def test_a_state_of_before_safetensors_is_taken_up(tmp_path: Path, faces: FaceSet) -> None:
    start(tmp_path / "r", faces, epochs=1, model="cf-dan-nano").train_expression()
    state = tmp_path / "r" / "last.safetensors"
    torch.save(load_state(state), tmp_path / "r" / "last.pt")
    expected = load_state(state)
    state.unlink()
    again = start(tmp_path / "r", faces, epochs=2, model="cf-dan-nano", resume=True)
    again.train_expression()
    assert load_state(state)["epoch"] == 2
    assert load_state(state)["history"][0] == expected["history"][0]


def test_stops_in_time_and_goes_on(tmp_path: Path, faces: FaceSet) -> None:
    run = start(tmp_path / "r", faces, epochs=2)
    assert run.train_landmarks(stop_after_s=-1) is None
    assert run.train_landmarks()
    assert not run.train_expression(stop_after_s=-1)
    assert run.train_expression()


def test_starts_from_a_checkpoint(tmp_path: Path, faces: FaceSet) -> None:
    first = start(tmp_path / "first", faces, epochs=1)
    first.train_landmarks()
    first.train_expression()
    best = tmp_path / "first" / "best.safetensors"
    again = start(tmp_path / "again", faces, epochs=1, init=best)
    assert again.train_landmarks() == {}
    (note,) = again.weights.notes(again.taken, again.preprocess, with_points=True)
    assert "--landmarks is not learned from" in note
    (note,) = again.weights.notes(again.taken, replace(again.preprocess, colour="bgr"), with_points=False)
    assert "has learned from gray images" in note
    assert "this run feeds bgr images" in note
    assert not StartingWeights().notes(again.taken, again.preprocess, with_points=True)
    kept = load_model(best)[0].state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in again.model.state_dict().items())
    assert "best.safetensors sha256:" in json.loads((tmp_path / "again" / "config.json").read_text())["init"]
    assert again.train_expression()


def test_refuses_weights_of_other_classes(tmp_path: Path, faces: FaceSet) -> None:
    first = start(tmp_path / "first", faces, epochs=1)
    first.train_expression()
    other = replace(faces, classes=("angry", "sad"))
    with pytest.raises(UsageError, match="happy, sad; this run trains poster-nano for angry, sad"):
        start(tmp_path / "again", other, epochs=1, init=tmp_path / "first" / "best.safetensors")


def test_schedule_may_change_and_is_recorded(tmp_path: Path, faces: FaceSet) -> None:
    start(tmp_path / "r", faces, epochs=5)
    start(tmp_path / "r", faces, epochs=2, resume=True)
    start(tmp_path / "r", faces, epochs=2, resume=True)
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["recipe"]["epochs"] == 2
    assert config["schedule_changes"] == [{"after_epoch": 0, "epochs": [5, 2]}]


def test_a_batch_that_does_not_divide_leaves_no_folder(tmp_path: Path, faces: FaceSet) -> None:
    with pytest.raises(UsageError, match="a batch of 9 does not divide .* 2 processes"):
        TrainingRun(
            tmp_path / "r",
            "cf-dan-nano",
            faces,
            None,
            recipe=Recipe(batch=9),
            landmark_epochs=1,
            device=Device("cpu"),
            reporter=Silent(),
            team=Team(0, 2),
        ).start(resume=False)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("settings", ["{", "[]", "{}", '{"recipe": 3}'])
def test_damaged_settings_of_a_run(tmp_path: Path, faces: FaceSet, settings: str) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text(settings)
    with pytest.raises(InputError, match=r"config\.json: not the settings of a run"):
        start(tmp_path / "r", faces, epochs=2, model="cf-dan-nano", resume=True)


@pytest.mark.parametrize("recorded", [2.0, 1.0], ids=["whole", "cut, as it used to be"])
def test_a_run_shorter_than_its_warm_up_may_become_longer(tmp_path: Path, faces: FaceSet, recorded: float) -> None:
    def begun(epochs: int, *, resume: bool) -> TrainingRun:
        recipe = Recipe(epochs=epochs, warmup=2, batch=8)
        common = {"recipe": recipe, "landmark_epochs": 1, "device": Device("cpu"), "reporter": Silent()}
        run = TrainingRun(tmp_path / "r", "cf-dan-nano", faces, None, **common)
        run.start(resume=resume)
        return run

    begun(1, resume=False)
    config = tmp_path / "r" / "config.json"
    settings = json.loads(config.read_text())
    settings["recipe"]["warmup"] = recorded
    config.write_text(json.dumps(settings))
    begun(3, resume=True)
    assert json.loads(config.read_text())["recipe"]["warmup"] == 2


def test_refuses_to_mix_runs(tmp_path: Path, faces: FaceSet) -> None:
    start(tmp_path / "r", faces, epochs=2)
    with pytest.raises(UsageError, match="--resume"):
        start(tmp_path / "r", faces, epochs=2)
    other = TrainingRun(
        tmp_path / "r",
        "poster-nano",
        faces,
        None,
        recipe=Recipe(epochs=2, warmup=1, batch=8),
        landmark_epochs=1,
        device=Device("cpu"),
        reporter=Silent(),
    )
    with pytest.raises(UsageError, match="other options: .*landmarks .True, now False.*recipe.lr .0.002, now 0.0015"):
        other.start(resume=True)
    with pytest.raises(UsageError, match="nothing to resume"):
        start(tmp_path / "empty", faces, epochs=2, resume=True)


def test_damaged_state_is_named(tmp_path: Path, faces: FaceSet) -> None:
    run = start(tmp_path / "r", faces, epochs=2)
    (tmp_path / "r" / "landmarks.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot resume from .*landmarks.safetensors"):
        run.train_landmarks()


def test_exploding_loss_stops_the_run(tmp_path: Path, faces: FaceSet) -> None:
    run = start(tmp_path / "r", faces, epochs=2)
    with torch.no_grad():
        run.model.head.linear.weight.fill_(float("nan"))
    with pytest.raises(PosterEdgeError, match="loss became nan in epoch 1: begin again with a lower --lr$"):
        run.train_expression()
    run = start(tmp_path / "points", faces, epochs=2)
    with torch.no_grad():
        run.model.face_landback.output_layer.linear.weight.fill_(float("nan"))
    with pytest.raises(PosterEdgeError, match="begin again with a lower --landmark-lr$"):
        run.train_landmarks()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"landmarks": np.zeros((3, 68, 2), np.float16)}, "do not fit"),
        ({"labels": np.ones(48, np.uint8)}, "labels differ"),
        ({"presence": None}, "no landmark file, entries missing: presence"),
        ({"presence": np.ones(47)}, "do not fit"),
        ({"presence": np.array(["1"] * 47 + ["yes"])}, "must be numbers"),
    ],
    ids=["rows", "labels", "missing", "one row less", "words"],
)
def test_landmarks_of_other_faces(tmp_path: Path, faces: FaceSet, changes: dict, message: str) -> None:
    entries = {
        "landmarks": np.zeros((48, 68, 2), np.float16),
        "labels": faces.labels,
        "presence": np.ones(48, np.float16),
        "self_incons": np.zeros(48, np.float16),
        **changes,
    }
    np.savez(tmp_path / "p.npz", **{k: v for k, v in entries.items() if v is not None})
    with pytest.raises(InputError, match=message):
        load_landmarks(tmp_path / "p.npz", faces)


@pytest.mark.parametrize("damage", ["absent", "empty", "no zip", "cut", "array"])
def test_damaged_landmark_files(tmp_path: Path, faces: FaceSet, damage: str) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, landmarks=np.zeros((48, 68, 2), np.float16))
    data = path.read_bytes()
    if damage == "array":
        np.save(tmp_path / "p.npy", np.zeros(3))
        path.write_bytes((tmp_path / "p.npy").read_bytes())
    elif damage == "absent":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "no zip": b"PK text", "cut": data[: len(data) // 2]}[damage])
    with pytest.raises(InputError, match=r"p\.npz: not a readable \.npz file"):
        load_landmarks(path, faces)


def test_landmarks_that_nobody_trusts(tmp_path: Path, faces: FaceSet) -> None:
    run = start(tmp_path / "r", faces, epochs=1)
    run.points = replace(points_for(faces), trusted=np.zeros(len(faces), bool))
    with pytest.raises(InputError, match="not one of 44 faces of a split has landmarks to trust"):
        run.train_landmarks()
