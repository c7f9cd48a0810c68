"""``poster-edge train``: landmark pre-training, expression training, records in one folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poster_edge.cli.options import FiniteRange, data_options
from poster_edge.cli.train_options import recipe_options, teacher_options, weight_options
from poster_edge.cli.train_place import countdown, place_of, place_options
from poster_edge.errors import UsageError

if TYPE_CHECKING:
    from poster_edge.train.budget import Budget
    from poster_edge.train.recipe import Recipe
    from poster_edge.train.reporter import Reporter
    from poster_edge.train.team import Team

#: Share of teachers where neither the recipe nor an option says it.
_TEACHER_WEIGHT = 0.3
#: From so many images on it takes minutes to find equal ones.
_MANY = 50_000


@click.command(name="train")
@click.option("--model", help="Configuration; see 'poster-edge models' [default: the recipe's, else poster-nano].")
@data_options
@click.option(
    "--targets",
    type=click.Choice(["majority", "probability", "multi-label"]),
    default="majority",
    show_default=True,
    help="What FERPlus' votes become: one class, or a distribution to learn.",
)
@click.option("--fold", type=int, metavar="K", help="Validate on fold K of --folds, train on the others (CK+).")
@click.option("--folds", default=10, show_default=True, help="Number of folds.")
@click.option("--landmarks", type=click.Path(path_type=Path), help=".npz of 68 landmarks per row; POSTER only.")
@click.option("--landmark-epochs", default=8, show_default=True, help="Epochs of landmark pre-training.")
@click.option(
    "--landmark-lr",
    type=FiniteRange(0, min_open=True),
    help="Peak learning rate of landmark pre-training  [default: 4e-3].",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder [default: runs/train/MODEL].")
@weight_options
@recipe_options
@teacher_options
@place_options
@click.option("--cuda-graphs/--no-cuda-graphs", default=True, show_default=True, help="On a GPU: whole steps at once.")
@click.option("--compile", "compiled", is_flag=True, help="Translate the network with torch.compile first.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's event files into the run folder too.")
@click.option(
    "--images",
    type=click.Choice(["auto", "memory", "files"]),
    default="auto",
    show_default=True,
    help="Keep the images in memory, or read them again from their files; auto: memory if they take half of it.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --output.")
@click.option(
    "--within",
    type=FiniteRange(0, min_open=True),
    metavar="MINUTES",
    help="As many epochs as fit into this time, by how long the first ones take, instead of --epochs.",
)
@click.option("--stop-after", type=float, metavar="MINUTES", help="Stop at the next epoch's end; go on with --resume.")
def command(
    *,
    model: str | None,
    data: Path,
    dataset: str | None,
    targets: str,
    fold: int | None,
    folds: int,
    landmarks: Path | None,
    landmark_epochs: int,
    landmark_lr: float | None,
    output: Path | None,
    init: Path | None,
    transfer: Path | None,
    trunk: Path | None,
    image_weights: Path | None,
    landmark_weights: Path | None,
    recipe: str | None,
    teachers: tuple[Path, ...],
    teacher_weight: float | None,
    device: str,
    precision: str,
    cuda_graphs: bool,
    compiled: bool,
    tensorboard: bool,
    images: str,
    resume: bool,
    within: float | None,
    stop_after: float | None,
    **changes: Any,
) -> None:
    """Train MODEL on labelled faces.

    Where --data has a validation split, that split selects the epoch; otherwise a tenth of each
    class is held out. Training images whose pixels equal a held-out image's are dropped.
    Each network has a recipe of its own; --recipe takes another, and the options from --epochs to
    --seed change it. Several processes: torchrun --nproc-per-node N -m poster_edge train ...
    """
    from poster_edge.cli import console
    from poster_edge.optional import require

    for package in ("torch", "safetensors"):
        require(package, purpose="train a model")
    if landmark_lr is not None and landmarks is None:
        raise UsageError("--landmark-lr is of the pre-training on --landmarks, which are not given")
    left, budget = countdown(stop_after), _budget(within, changes["epochs"])
    from poster_edge.calib.temperature import fit_temperature
    from poster_edge.data.faces import load_faces
    from poster_edge.files import check_place
    from poster_edge.train.landmarks import load_landmarks
    from poster_edge.train.records import check_folder
    from poster_edge.train.run import TrainingRun
    from poster_edge.train.starting_weights import StartingWeights
    from poster_edge.train.team import joined, started

    model, chosen = _recipe(model, recipe, **changes)
    chosen = _taught(chosen, teachers, teacher_weight)
    where = replace(place_of(device, precision, started()), graphs=cuda_graphs, compiled="inductor" if compiled else "")
    weights = StartingWeights(init, trunk, image_weights, landmark_weights, transfer)
    folder = output or Path("runs/train") / model
    check_place(folder / "config.json")
    # Before a large data set is read.
    check_folder(folder, resume=resume)
    faces = load_faces(data, dataset=dataset, targets=targets)
    if faces.left_out and started().leads:
        console.message(f"{faces.name}: {faces.left_out} images have no label that counts and are left out")
    if len(faces) > _MANY and started().leads:
        console.message(f"{faces.name}: {len(faces):,} images are looked through for equal ones; this takes minutes")
    points = load_landmarks(landmarks, faces) if landmarks else None
    with joined(where.name) as team, _reporter(team, folder if tensorboard else None) as reporter:
        run = TrainingRun(
            folder,
            model,
            faces,
            points,
            recipe=chosen,
            landmark_epochs=landmark_epochs,
            landmark_lr=landmark_lr,
            device=where,
            reporter=reporter,
            weights=weights,
            teachers=teachers,
            fold=None if fold is None else (fold, folds),
            team=team,
            images=images,
            budget=budget,
        )
        if team.leads:
            for note in weights.notes(run.taken, run.preprocess, with_points=points is not None):
                console.message(note)
        run.start(resume=resume)
        if team.leads and (unseen := run.split.unseen(faces)):
            console.message(f"no training image of: {', '.join(unseen)}")
        if team.leads and run.landmark_stream is not None and points is None and not run.taken.landmarks:
            console.message("the landmark stream stays untrained: no --landmarks and no weights that bring one")
        errors = run.train_landmarks(stop_after_s=left())
        done = errors is not None and run.train_expression(stop_after_s=left())
        summary = run.finish(fit_temperature, errors) if done and errors is not None else {}
    if not team.leads:
        return
    if not done:
        console.message(f"stopped after {stop_after:g} minutes; go on with --resume -o {folder}")
        return
    console.message(f"best epoch {summary['epoch']}: {accuracy_text(summary)}\n{folder / 'best.safetensors'}")


def _budget(minutes: float | None, epochs: int | None) -> Budget | None:
    """The time that ``--within`` gives, from now on."""
    from poster_edge.train.budget import Budget

    if minutes is None:
        return None
    if epochs is not None:
        raise UsageError("--within finds the number of epochs itself: leave out --epochs")
    return Budget(60 * minutes)


def accuracy_text(summary: dict[str, Any]) -> str:
    """Accuracy of a finished run, and where validation images have twins in the training split, without these.

    Args:
        summary: of the run: ``validation``, ``validation_without_twins``, ``validation_twins``.
    """
    whole, alone, twins = summary["validation"], summary["validation_without_twins"], summary["validation_twins"]
    text = f"{whole['accuracy']:.2%} of {whole['count']} validation images"
    if not twins:
        return text
    return f"{text} ({alone['accuracy']:.2%} without {twins} twin{'s' if twins > 1 else ''} of training images)"


@contextmanager
def _reporter(team: Team, events: Path | None) -> Iterator[Reporter]:
    """What shows the run: nothing but in the first process; ``events``: the run folder, for TensorBoard too."""
    from poster_edge.cli.train_report import ConsoleReporter
    from poster_edge.train.events import EventLog
    from poster_edge.train.reporter import Silence

    if not team.leads:
        yield Silence()
        return
    with ConsoleReporter() as shown:
        if events is None:
            yield shown
            return
        with EventLog(events / "tensorboard", shown) as log:
            yield log


def _recipe(model: str | None, name: str | None, **changes: Any) -> tuple[str, Recipe]:
    """The model and the recipe to train it by: the named one or the model's own, with what the options change."""
    from poster_edge.models.config import model_config
    from poster_edge.train.recipe import AUGMENTATIONS, recipe_for
    from poster_edge.train.recipe_file import load_recipe

    if name is None:
        model = model or "poster-nano"
        recipe = recipe_for(model_config(model))
    else:
        found = load_recipe(name)
        model, recipe = model or found.model, found.recipe
    if changes["augmentation"] is not None:
        changes["augmentation"] = AUGMENTATIONS[changes["augmentation"]]
    if changes["label_smoothing"] is not None:
        changes["loss"] = ()
    return model, _changed(recipe, **changes)


def _changed(recipe: Recipe, **options: Any) -> Recipe:
    """A recipe with the options that were given."""
    return replace(recipe, **{k: v for k, v in options.items() if v is not None})


def _taught(recipe: Recipe, teachers: tuple[Path, ...], weight: float | None) -> Recipe:
    """The recipe with the share that the teachers have.

    Raises:
        UsageError: there is a share but nobody to have it, or the other way round.
    """
    from poster_edge.errors import UsageError

    share = recipe.teacher_weight if weight is None else weight
    if not teachers:
        if share:
            raise UsageError(f"the teachers' share of the targets is {share:g}, but there is none: pass --teacher FILE")
        return replace(recipe, teacher_weight=0.0)
    if weight == 0:
        raise UsageError("--teacher-weight 0: the teachers would be asked for nothing; leave --teacher out")
    return replace(recipe, teacher_weight=share or _TEACHER_WEIGHT)
