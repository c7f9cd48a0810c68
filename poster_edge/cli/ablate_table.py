"""An ablation table: its rows, what is known of each, and its three files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poster_edge.errors import InputError, UsageError
from poster_edge.files import write_atomic
from poster_edge.models.ablation import table_rows
from poster_edge.models.config import model_config
from poster_edge.models.poster_config import PosterConfig
from poster_edge.train.records import completed, differences

if TYPE_CHECKING:
    from rich.table import Table

    from poster_edge.models.counting import Counts
    from poster_edge.train.recipe import Recipe

#: Column of the files -> heading of the shown tables.
_COLUMNS = {
    "label": "",
    "model": "model",
    "parameters": "parameters, M",
    "fusion_parameters": "of the transformer, M",
    "flops": "FLOPs, G",
    "paper_flops": "as the paper counts, G",
    "faces": "validation faces",
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "accuracy_without_twins": "accuracy without twins",
    "epoch": "best epoch",
}
#: Columns of the files that a terminal has no room for beside accuracies.
_FILES_ONLY = ("paper_flops", "faces", "accuracy_without_twins")


@dataclass
class Row:
    """One configuration of a table.

    Attributes:
        label: what the row is called.
        config: its network.
        counts: its size and cost.
        summary: ``summary.json`` of its training, or None while there is none.
    """

    label: str
    config: PosterConfig
    counts: Counts
    summary: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Name of the configuration, and of its folder."""
        return self.config.variant

    def values(self) -> dict[str, Any]:
        """One entry for each column."""
        done = self.summary or {}
        whole, alone = done.get("validation", {}), done.get("validation_without_twins", {})
        return {
            "label": self.label,
            "model": self.name,
            **{k: v for k, v in asdict(self.counts).items() if k in _COLUMNS},
            "faces": whole.get("count"),
            "accuracy": whole.get("accuracy"),
            "mean_class_accuracy": whole.get("mean_class_accuracy"),
            "accuracy_without_twins": alone.get("accuracy"),
            "epoch": done.get("epoch"),
        }

    def read(self, folder: Path, recipe: Recipe, *, data: str, landmark_epochs: int | None, precision: str) -> None:
        """Take over what a finished training in ``folder`` found, where there is one.

        Args:
            folder: of the row's training.
            recipe: the table's.
            data: name of the data set.
            landmark_epochs: of pre-training; None: the row has no landmarks.
            precision: that of the arithmetic.

        Raises:
            UsageError: it was trained otherwise.
            InputError: the file is damaged.
        """
        path = folder / "summary.json"
        if not path.is_file():
            return
        try:
            summary = json.loads(path.read_text())
            began = {k: summary[k] for k in ("data", "precision")}
            began["recipe"] = completed(summary["recipe"])
            began["landmark_epochs"] = summary["landmark_recipe"]["epochs"] if summary["landmarks"] else None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{path}: not a summary of a training ({error}); remove {folder} to train again"
            ) from error
        asked = json.loads(json.dumps(asdict(recipe)))
        wanted = {"recipe": asked, "data": data, "landmark_epochs": landmark_epochs, "precision": precision}
        if differ := differences(began, wanted):
            raise UsageError(
                f"{folder} was trained with other options: {', '.join(differ[:4])}; repeat them or choose another -o"
            )
        self.summary = summary


def open_table(model: str, table: str, *, num_classes: int | None = None) -> list[Row]:
    """The rows of a table, counted.

    Args:
        model: the whole network.
        table: one of :data:`poster_edge.models.ablation.TABLES`.
        num_classes: C, or None for the configuration's own.

    Raises:
        UsageError: unknown, no POSTER, or a variant itself.
    """
    from poster_edge.models.counting import count

    base = model_config(model)
    if not isinstance(base, PosterConfig):
        raise UsageError(f"the ablation tables are POSTER's; {model} has none")
    if not base.as_published:
        raise UsageError(f"--model {model} is a variant itself; give the whole network")
    classes = base.num_classes if num_classes is None else num_classes
    return [Row(label, c, count(replace(c, num_classes=classes))) for label, c in table_rows(base, table)]


def write_table(folder: Path, table: str, rows: list[Row], about: dict[str, Any]) -> None:
    """Write TABLE.json, TABLE.csv and TABLE.md, each whole."""
    folder.mkdir(parents=True, exist_ok=True)
    values = [row.values() for row in rows]
    write_atomic(folder / f"{table}.json", json.dumps({**about, "table": table, "rows": values}, indent=1) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(values)
    write_atomic(folder / f"{table}.csv", text.getvalue())
    write_atomic(folder / f"{table}.md", markdown(rows))


def markdown(rows: list[Row]) -> str:
    """The table in Markdown; columns without a value in any row are left out."""
    columns, cells = _cells(rows)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)]) + "\n"


def shown(title: str, rows: list[Row]) -> Table:
    """The table for a terminal."""
    from poster_edge.cli import console

    trained = any(row.summary for row in rows)
    columns, cells = _cells(rows, without=_FILES_ONLY if trained else ())
    return console.table(title, columns, [list(row) for row in cells])


def _cells(rows: list[Row], *, without: tuple[str, ...] = ()) -> tuple[list[str], list[list[str]]]:
    values = [row.values() for row in rows]
    kept = [c for c in _COLUMNS if c not in without and any(v[c] is not None for v in values)]
    return [_COLUMNS[c] for c in kept], [[_text(c, v[c]) for c in kept] for v in values]


def _text(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column in ("parameters", "fusion_parameters"):
        return f"{value / 1e6:.2f}"
    if column in ("flops", "paper_flops"):
        return f"{value / 1e9:.3f}"
    return f"{value:.2%}" if isinstance(value, float) else str(value)
