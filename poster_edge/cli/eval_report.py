"""What ``poster-edge eval`` measures on and prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.cli import console
from poster_edge.cli.eval_model import size_and_cost
from poster_edge.data.faces import FaceSet
from poster_edge.data.split import twins_in_training
from poster_edge.data.subsets import Subset, read_subset
from poster_edge.errors import InputError, UsageError
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.classifier import Classifier, require_finite
from poster_edge.train.metrics import Metrics, evaluate, wilson

#: Ends of an interval that differ by no more in their distance are given as one.
_EVEN = 0.01


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
            if crops:
                logits.append(classifier.logits(crops))
                require_finite(logits[-1], where=faces.name, runtime=classifier.runtime)
            bar.advance(task, len(crops))
    return np.concatenate([np.empty((0, len(classifier.classes)), np.float32), *logits]), read, problems


@dataclass(frozen=True)
class Measured:
    """What the model answered.

    Attributes:
        rows: what was to be measured.
        logits: (M, C) of the rows that could be read.
        read: (N,) which of the rows those are.
        temperature: divides the logits before the softmax.
    """

    rows: Rows
    logits: NDArray[np.float32]
    read: NDArray[np.bool_]
    temperature: float

    @property
    def labels(self) -> NDArray[np.int64]:
        """(M,) class indices of the model."""
        return self.rows.labels[self.read]

    def metrics(self, classes: tuple[str, ...], among: NDArray[np.bool_] | None = None) -> Metrics:
        """Figures of all, or of those (M,) ``among`` them."""
        chosen = np.ones(len(self.logits), bool) if among is None else among
        return evaluate(self.logits[chosen], self.labels[chosen], classes, temperature=self.temperature)


def open_subsets(options: tuple[str, ...], faces: FaceSet) -> dict[str, Subset]:
    """What the options NAME=FILE name.

    Raises:
        UsageError: an option is not of that form, or a name is given twice.
        InputError: see :func:`poster_edge.data.subsets.read_subset`.
    """
    found: dict[str, Subset] = {}
    for option in options:
        name, equals, file = option.partition("=")
        if not (name and equals and file):
            raise UsageError(f"--subset {option}: expected NAME=FILE, such as occlusion=rafdb_occlusion_list.txt")
        if name in found:
            raise UsageError(f"--subset: the name '{name}' is given twice")
        found[name] = read_subset(Path(file), faces)
    return found


def report_of(measured: Measured, bundle: Bundle, faces: FaceSet, subsets: dict[str, Subset]) -> dict[str, Any]:
    """All figures as JSON takes them.

    Raises:
        InputError: a subset shares no image with the rows that were measured.
    """
    rows, classes = measured.rows, bundle.manifest.classes
    metrics = measured.metrics(classes)
    report: dict[str, Any] = {
        "model": bundle.manifest.model,
        "bundle": str(bundle.folder),
        "dataset": faces.dataset,
        "split": rows.split,
        "temperature": measured.temperature,
        "unknown_class": rows.unknown,
        "unreadable": int((~measured.read).sum()),
        "without_label": faces.left_out,
        **metrics.to_dict(),
        "per_class": per_class(metrics.confusion, classes),
        "size_and_cost": size_and_cost(bundle),
    }
    alone = ~rows.twins[measured.read]
    report["twins"] = int((~alone).sum())
    if alone.any() and not alone.all():
        report["without_twins"] = measured.metrics(classes, alone).to_dict()
    if subsets:
        report["subsets"] = {name: _subset(name, subset, measured, classes) for name, subset in subsets.items()}
    return report


def _subset(name: str, subset: Subset, measured: Measured, classes: tuple[str, ...]) -> dict[str, Any]:
    among = subset.member[measured.rows.indices[measured.read]]
    if not among.any():
        raise InputError(
            f"--subset {name}: none of its images is in the '{measured.rows.split}' split; choose another --split"
        )
    found = measured.metrics(classes, among).to_dict()
    return {"listed": subset.listed, "missing": subset.missing, **found}


def per_class(confusion: list[list[int]], classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Images, recall, precision, F1 and the commonest mistake of each class; None where there is nothing to count."""
    counts = np.asarray(confusion)
    found = {}
    for k, name in enumerate(classes):
        hits, actual, claimed = int(counts[k, k]), int(counts[k].sum()), int(counts[:, k].sum())
        wrong = counts[k].copy()
        wrong[k] = 0
        found[name] = {
            "images": actual,
            "recall": hits / actual if actual else None,
            "precision": hits / claimed if claimed else None,
            "f1": 2 * hits / (actual + claimed) if actual + claimed else None,
            "taken_for": classes[int(wrong.argmax())] if wrong.any() else None,
            "taken_for_share": float(wrong.max() / actual) if actual else None,
        }
    return found


def print_report(report: dict[str, Any], classes: tuple[str, ...]) -> None:
    """Tables on stdout: the figures, each class, the confusion matrix, the subsets."""
    title = f"{report['model']} on {report['data']} ({report['split']}), {report['runtime']}"
    console.stdout.print(console.table(title, ["figure", "value"], _figures(report)))
    rows = [
        [
            name,
            c["images"],
            _percent(c["recall"]),
            _percent(c["precision"]),
            "-" if c["f1"] is None else f"{c['f1']:.3f}",
            f"{c['taken_for']} {_percent(c['taken_for_share'])}" if c["taken_for"] else "-",
        ]
        for name, c in report["per_class"].items()
    ]
    columns = ["class", "images", "recall", "precision", "F1", "most taken for"]
    console.stdout.print(console.table("Per class", columns, rows))
    matrix = [[name, *counts] for name, counts in zip(classes, report["confusion"], strict=True)]
    console.stdout.print(console.table("Rows: true class; columns: predicted", ["class", *classes], matrix))
    if "subsets" in report:
        rows = [
            [name, s["count"], with_interval(s), _percent(s["mean_class_accuracy"]), s["missing"] or ""]
            for name, s in report["subsets"].items()
        ]
        columns = ["subset", "images", "accuracy", "mean class accuracy", "listed, not in the data"]
        console.stdout.print(console.table("Subsets", columns, rows))


def _figures(report: dict[str, Any]) -> list[list[Any]]:
    rows: list[list[Any]] = [
        ["images", report["count"]],
        ["accuracy", with_interval(report)],
        ["mean class accuracy", f"{report['mean_class_accuracy']:.2%}"],
        ["macro F1", f"{report['macro_f1']:.4f}"],
        ["expected calibration error", f"{report['ece']:.4f}"],
        ["negative log-likelihood", f"{report['nll']:.4f} nats"],
    ]
    if twins := report["twins"]:
        alone = f"{report['without_twins']['accuracy']:.2%}" if "without_twins" in report else "all are"
        rows.append([f"accuracy without {twins} twin{'s' if twins > 1 else ''} of training images", alone])
    if report["unknown_class"]:
        rows.append(["left out: class unknown to the model", report["unknown_class"]])
    if report["without_label"]:
        rows.append(["left out of all splits: no label that counts", report["without_label"]])
    if cost := report["size_and_cost"]:
        rows.append(["parameters (of these used)", f"{cost['parameters']:,} ({cost['live_parameters']:,})"])
        rows.append(["FLOPs, 2 per multiply-add, attention included", f"{cost['flops'] / 1e9:.4g} G"])
        rows.append(["FLOPs as the POSTER paper counts", f"{cost['paper_flops'] / 1e9:.4g} G"])
    return rows


def with_interval(figures: dict[str, Any]) -> str:
    """The accuracy with its 95 % interval; of few faces that lies unevenly about it, and is written out."""
    share, low, high = wilson(round(figures["accuracy"] * figures["count"]), figures["count"])
    if abs((high - share) - (share - low)) > _EVEN:
        return f"{share:.2%} ({low:.1%} to {high:.1%})"
    return f"{share:.2%} ± {figures['accuracy_ci95']:.2%}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
