"""The table of docs/training.md: what each ingredient of poster-nano's training is worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Table = Callable[[list[str], list[list[str]]], str]
RECORD = "ingredients.json"


def page(results: Path, table: Table) -> str:
    """What was trained, and a row for each ingredient; a line that says so where nothing was."""
    path = results / RECORD
    if not path.is_file():
        return "Not measured yet: `python benchmarks/ingredients.py --data fer2013.npz --landmarks mesh.npz`."
    found = json.loads(path.read_text())
    names = list(dict.fromkeys(r["ingredient"] for r in found["runs"]))
    rows = [_row([r for r in found["runs"] if r["ingredient"] == name]) for name in names]
    columns = ["", "epochs", "accuracy", "change", "mean class accuracy", "last epoch"]
    return f"{_about(found)}\n\n{table(columns, rows)}\n\n{_reading(found)}"


def _about(found: dict[str, Any]) -> str:
    runs, machine = found["runs"], found["environment"]
    seeds = len({r["seed"] for r in runs})
    whole = found["images"] == "all"
    size = "the whole training split" if whole else f"**only {runs[0]['train_images']:,}** of the training images"
    threads = f", {found['threads']} thread{'s' if found['threads'] > 1 else ''}" if found["threads"] else ""
    return (
        f"{found['model']} on FER2013: {size}, **{found['epochs']} epochs**, {seeds} seed{'s' if seeds > 1 else ''}, "
        f"{runs[0]['faces']:,} validation faces, {found['precision']}{threads} on {machine['cpu']} "
        f"({machine['date']}, `benchmarks/ingredients.py`). Every run starts from the same weights and the same "
        "pre-trained landmark stream, and differs from the first in what its row says."
    )


def _row(runs: list[dict[str, Any]]) -> list[str]:
    """One ingredient, the mean over its seeds."""

    def mean(key: str) -> float:
        return float(sum(r[key] for r in runs) / len(runs))

    base = runs[0]["ingredient"] == "baseline"
    # The intervals are those of the faces, which all seeds have in common.
    return [
        runs[0]["label"],
        str(runs[0]["epochs"]),
        f"{mean('accuracy'):.2%} ± {mean('accuracy_ci95'):.2%}",
        "" if base else f"{100 * mean('change'):+.2f} ± {100 * mean('change_ci95'):.2f}",
        f"{mean('mean_class_accuracy'):.2%}",
        f"{mean('last_epoch_accuracy'):.2%}",
    ]


def _reading(found: dict[str, Any]) -> str:
    small = found["images"] != "all" or found["epochs"] < 40
    packaged = any(t["name"].startswith("poster_edge/") for t in found["teachers"])
    taught = packaged and any("--teacher-weight" in r["options"] for r in found["runs"])
    parts = [
        "Accuracy is that of the best epoch, which these faces selected, with 95 % intervals over the faces; the "
        "change, in points, is compared face by face, so its interval is narrower. Another seed moves both."
    ]
    if small:
        parts.append(
            "Short runs on few images favour what learns fast over what holds off overfitting: long runs differ."
        )
    if taught:
        parts.append(
            "The teacher is the packaged poster-nano, which has learned from the whole training split: its row says "
            "what a teacher can give, not what these images can."
        )
    return " ".join(parts)
