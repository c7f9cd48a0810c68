"""What a run writes about itself: rows of metrics, settings as JSON gives them back."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from poster_edge.errors import InputError, UsageError
from poster_edge.files import write_atomic
from poster_edge.train.metrics import Metrics
from poster_edge.train.recipe import Recipe


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """A csv file with a line for each epoch, written whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    write_atomic(path, text.getvalue())


def metric_row(metrics: Metrics) -> dict[str, float]:
    """What a line of ``metrics.csv`` says of the validation split."""
    return {
        "accuracy": metrics.accuracy,
        "macro_f1": metrics.macro_f1,
        "mean_class_accuracy": metrics.mean_class_accuracy,
        "nll": metrics.nll,
        "ece": metrics.ece,
    }


def check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse to begin a run where there is one, and to go on where there is none.

    Raises:
        UsageError: says which.
    """
    there = (folder / "config.json").is_file()
    if resume and not there:
        raise UsageError(f"nothing to resume in {folder}")
    if there and not resume:
        raise UsageError(f"{folder} holds a run already; pass --resume to go on, or choose another -o")


def resumed_settings(folder: Path, wanted: dict[str, Any], *, keep_epochs: bool = False) -> dict[str, Any]:
    """Settings of a resumed run: those it began with, but the number of epochs may change, which is recorded.

    Args:
        folder: of the run.
        wanted: what the run is asked for now, as JSON gives it back.
        keep_epochs: their number stays what it was, whatever is asked for.

    Raises:
        UsageError: it began with other settings (they are named).
        InputError: its settings cannot be read.
    """
    config = folder / "config.json"
    try:
        began = json.loads(config.read_text())
        began["recipe"]["epochs"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{config}: not the settings of a run ({error}); train into another -o") from error
    changes = began.pop("schedule_changes", [])
    for part in ("recipe", "landmark_recipe"):
        if part in began:
            began[part] = completed(began[part])
    if keep_epochs:
        wanted = {**wanted, "recipe": {**wanted["recipe"], "epochs": began["recipe"]["epochs"]}}
    old, new = began["recipe"].pop("epochs"), wanted["recipe"]["epochs"]
    if began["recipe"]["warmup"] == old <= wanted["recipe"]["warmup"]:
        # Records of short runs used to have their warm-up cut to the run's length.
        began["recipe"]["warmup"] = wanted["recipe"]["warmup"]
    rest = {k: v for k, v in wanted["recipe"].items() if k != "epochs"}
    if differ := differences(began, {**wanted, "recipe": rest}):
        raise UsageError(
            f"{config} was started with other options: {', '.join(differ[:4])}; repeat them or choose another -o"
        )
    if old != new:
        metrics = folder / "metrics.csv"
        done = len(metrics.read_text().splitlines()) - 1 if metrics.is_file() else 0
        changes = [*changes, {"after_epoch": done, "epochs": [old, new]}]
    return {**wanted, "schedule_changes": changes} if changes else wanted


def completed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as a run recorded it; options that are newer than the run were what their defaults are now."""
    defaults = _plain(Recipe())
    augmentation = {**defaults["augmentation"], **recipe.get("augmentation", {})}
    return {**defaults, **recipe, "augmentation": augmentation}


def _plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON gives it back."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return values


def differences(began: dict[str, Any], wanted: dict[str, Any], at: str = "") -> list[str]:
    """What two descriptions of a run differ in: "recipe.lr (0.001, now 0.002)"."""
    found = []
    for key in began.keys() | wanted.keys():
        old, new = began.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{at}{key}.")
        elif old != new:
            found.append(f"{at}{key} ({old}, now {new})")
    return sorted(found)
