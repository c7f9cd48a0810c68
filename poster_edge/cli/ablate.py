"""``poster-edge ablate``: one of the POSTER paper's ablation tables, every row trained alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poster_edge.cli.train_place import countdown, place_of, place_options
from poster_edge.labels import LABEL_SETS

if TYPE_CHECKING:
    from poster_edge.cli.ablate_table import Row
    from poster_edge.train.recipe import Recipe
    from poster_edge.train.run import TrainingRun

#: State of a finished landmark pre-training, which all rows share: their landmark streams are the same.
_LANDMARKS = "landmarks.safetensors"


@click.command(name="ablate")
@click.option(
    "--table",
    type=click.Choice(["components", "levels", "swap-depth", "depth"]),
    required=True,
    help="Streams, pyramid and cross-fusion; pyramid levels; depths whose queries are swapped; number of depths.",
)
@click.option("--model", default="poster-nano", show_default=True, help="The whole network; a POSTER.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled faces, as for 'train'.")
@click.option("--dataset", type=click.Choice(list(LABEL_SETS)), help="Read --data as this data set.")
@click.option("--landmarks", type=click.Path(path_type=Path), help=".npz of 68 landmarks per row.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the table and of a run per row.")
@click.option("--epochs", type=click.IntRange(1), help="Epochs of expression training. [default: the model's recipe]")
@click.option("--landmark-epochs", default=8, show_default=True, help="Epochs of landmark pre-training, done once.")
@click.option("--batch", type=click.IntRange(2), help="Images per step. [default: the model's recipe]")
@click.option("--lr", type=float, help="Peak learning rate. [default: the model's recipe]")
@click.option("--seed", default=0, show_default=True, help="Seed of everything random, the same for all rows.")
@place_options
@click.option("--stop-after", type=float, metavar="MINUTES", help="Stop at an epoch's end; the same command goes on.")
@click.option("--dry-run", is_flag=True, help="Print parameters and FLOPs of the rows, and train nothing.")
def command(
    *,
    table: str,
    model: str,
    data: Path | None,
    dataset: str | None,
    landmarks: Path | None,
    output: Path | None,
    epochs: int | None,
    landmark_epochs: int,
    batch: int | None,
    lr: float | None,
    seed: int,
    device: str,
    precision: str,
    stop_after: float | None,
    dry_run: bool,
) -> None:
    """Train every row of an ablation table on the same data with the same recipe.

    The table is written to -o as Markdown, CSV and JSON, again after every row. Rows that are done
    are not trained again: the same command goes on where it stopped, and tables in one folder share
    the rows they have in common.
    """
    from poster_edge.cli import console
    from poster_edge.cli.ablate_table import open_table, shown, write_table
    from poster_edge.errors import UsageError
    from poster_edge.optional import require

    for package in ("torch", "safetensors"):
        require(package, purpose="count and train the variants")
    left = countdown(stop_after)
    if dry_run:
        rows = open_table(model, table)
        console.stdout.print(shown(f"{model}: {table}", rows))
        if output is not None:
            write_table(output, table, rows, {"model": model})
        return
    if data is None or output is None:
        raise UsageError("ablate needs --data DATA and -o DIR; --dry-run counts without them")
    from poster_edge.data.faces import load_faces
    from poster_edge.files import check_place
    from poster_edge.models.config import model_config
    from poster_edge.train.landmarks import load_landmarks
    from poster_edge.train.recipe import recipe_for
    from poster_edge.train.team import Team

    check_place(output / f"{table}.json")
    place = place_of(device, precision, Team())
    faces = load_faces(data, dataset=dataset)
    points = load_landmarks(landmarks, faces) if landmarks else None
    if points is None:
        console.message("without --landmarks the landmark stream is never trained: rows that have it tell little")
    changes = {"epochs": epochs, "batch": batch, "lr": lr, "seed": seed}
    recipe = _recipe(recipe_for(model_config(model)), {k: v for k, v in changes.items() if v is not None})
    rows = open_table(model, table, num_classes=len(faces.classes))
    kept = {"data": faces.name, "precision": place.arithmetic}
    about = {"model": model, **kept, "landmarks": points is not None, "recipe": asdict(recipe)}

    def make(row: Row, reporter: Any) -> TrainingRun:
        from poster_edge.train.run import TrainingRun

        return TrainingRun(
            output / row.name,
            row.name,
            faces,
            None if row.config.streams == "image" else points,
            recipe=recipe,
            landmark_epochs=landmark_epochs,
            device=place,
            reporter=reporter,
        )

    # All of them before any is trained: what does not fit is said now and not hours later.
    for row in rows:
        pretrained = landmark_epochs if points is not None and row.config.streams != "image" else None
        row.read(output / row.name, recipe, **kept, landmark_epochs=pretrained)
    for row in rows:
        if row.summary is None:
            console.message(f"{row.label}: {row.name}")
            if not _train(row, output, make, left):
                console.message("stopped; the same command goes on")
                break
        write_table(output, table, rows, about)
    console.stdout.print(shown(f"{model} on {faces.name}: {table}", rows))
    console.message(f"{output / table}.md, .csv, .json")


def _recipe(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """A recipe with changes."""
    return replace(recipe, **changes)


def _train(row: Row, folder: Path, make: Callable[[Row, Any], TrainingRun], left: Callable[[], float | None]) -> bool:
    """Train one row to its end; False when the seconds that are left ran out before."""
    from poster_edge.calib.temperature import fit_temperature
    from poster_edge.cli.train_report import ConsoleReporter

    with ConsoleReporter() as reporter:
        run = make(row, reporter)
        resumed = (run.folder / "config.json").is_file()
        shared = folder / _LANDMARKS
        if not resumed and run.points is not None and shared.is_file():
            run.folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shared, run.folder / _LANDMARKS)
        run.start(resume=resumed)
        errors = run.train_landmarks(stop_after_s=left())
        if errors is None:
            return False
        if (run.folder / _LANDMARKS).is_file() and not shared.is_file():
            shutil.copyfile(run.folder / _LANDMARKS, shared)
        if not run.train_expression(stop_after_s=left()):
            return False
        row.summary = run.finish(fit_temperature, errors)
    return True
