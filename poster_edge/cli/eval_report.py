"""What ``poster-edge eval`` measures on and prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.cli import console
from poster_edge.data.faces import FaceSet
from poster_edge.data.split import twins_in_training
from poster_edge.errors import InputError
from poster_edge.runtime.classifier import Classifier


@dataclass(frozen=True)
class Rows:
    """The rows of a face set that are measured.

    Attributes:
        indices: row numbers (N,).
        labels: class indices of the *model* (N,).
        twins: (N,) whether the row has a pixel-equal twin in the file's training split.
        split: "validation", "test", "train" or "all".
        unknown: rows left out because the model does not know their class.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    twins: NDArray[np.bool_]
    split: str
    unknown: int


def select(faces: FaceSet, classes: tuple[str, ...], split: str) -> Rows:
    """Choose rows and translate their labels to the model's class order, by name.

    Raises:
        InputError: the data has no such split, or shares no class with the model.
    """
    held_out = [role for role in ("validation", "test") if len(faces.indices(role))]
    chosen = (held_out or ["all"])[0] if split == "auto" else split
    indices = np.arange(len(faces)) if chosen == "all" else faces.indices(chosen)
    if not len(indices):
        raise InputError(f"{faces.name} has no '{chosen}' split; use --split all")
    position = {name: k for k, name in enumerate(classes)}
    translate = np.array([position.get(name, -1) for name in faces.classes])
    labels = translate[faces.labels[indices]]
    known = labels >= 0
    if not known.any():
        raise InputError(
            f"{faces.name} has the classes {', '.join(faces.classes)}, the model {', '.join(classes)}: none in common"
        )
    twins = np.zeros(len(indices), bool)
    if chosen in ("validation", "test") and len(faces.indices("train")):
        twins = twins_in_training(faces, indices)
    return Rows(indices[known], labels[known], twins[known], chosen, int((~known).sum()))


def predict(
    classifier: Classifier, faces: FaceSet, indices: NDArray[np.int64], batch: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[str]]:
    """Logits of the readable rows, which rows those are, and a line for each of the others."""
    logits: list[NDArray[np.float32]] = []
    read = np.zeros(len(indices), bool)
    problems: list[str] = []
    with console.progress_bar() as bar:
        task = bar.add_task("images", total=len(indices))
        for start in range(0, len(indices), batch):
            crops = []
            for row in range(start, min(start + batch, len(indices))):
                try:
                    crops.append(faces.read(int(indices[row])))
                    read[row] = True
                except InputError as error:
                    problems.append(str(error))
            logits.append(classifier.logits(crops))
            bar.advance(task, len(crops))
    return np.concatenate(logits), read, problems


def print_report(report: dict[str, Any], classes: tuple[str, ...]) -> None:
    """Tables on stdout: the figures, then recall and confusion per class."""
    half = report["accuracy_ci95"]
    rows = [
        ["images", report["count"]],
        ["accuracy", f"{report['accuracy']:.2%} ± {half:.2%}"],
        ["mean class accuracy", f"{report['mean_class_accuracy']:.2%}"],
        ["macro F1", f"{report['macro_f1']:.4f}"],
        ["expected calibration error", f"{report['ece']:.4f}"],
        ["negative log-likelihood", f"{report['nll']:.4f} nats"],
    ]
    if "without_twins" in report:
        alone = report["without_twins"]
        rows.append(
            [
                f"accuracy without {report['count'] - alone['count']} twins of training images",
                f"{alone['accuracy']:.2%}",
            ]
        )
    if report["unknown_class"]:
        rows.append(["left out: class unknown to the model", report["unknown_class"]])
    title = f"{report['model']} on {report['data']} ({report['split']}), {report['runtime']}"
    console.stdout.print(console.table(title, ["figure", "value"], rows))
    matrix = [
        [name, "-" if report["recall"][name] is None else f"{report['recall'][name]:.1%}", *counts]
        for name, counts in zip(classes, report["confusion"], strict=True)
    ]
    console.stdout.print(console.table("Rows: true class; columns: predicted", ["class", "recall", *classes], matrix))
