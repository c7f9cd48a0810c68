"""One training run in one folder: landmark pre-training, expression training, records.

Folder: ``config.json`` (what was asked), ``landmarks.csv`` and ``metrics.csv`` (a row per epoch),
``landmarks.pt`` and ``last.pt`` (resumable state), ``best.safetensors`` (best epoch on the
validation split), ``summary.json``.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poster_edge.config import Preprocess
from poster_edge.data.faces import FaceSet
from poster_edge.data.split import split_faces
from poster_edge.errors import UsageError
from poster_edge.files import sweep, write_atomic
from poster_edge.labels import LABEL_SETS, Framing
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import ModelInfo, describe_source, load_model, save_checkpoint
from poster_edge.models.config import model_config
from poster_edge.models.network import LandmarkNetwork, WithLandmarks
from poster_edge.models.trunk_weights import load_trunk
from poster_edge.train import expression, landmarks, targets
from poster_edge.train.loop import Device, Loop
from poster_edge.train.metrics import Metrics, evaluate
from poster_edge.train.normalise import Normalise
from poster_edge.train.recipe import LANDMARK_RECIPE, Recipe
from poster_edge.train.teachers import Teachers

#: Mean and standard deviation of the pixels of FER2013's training split, to two digits.
GRAY_MEAN, GRAY_STD = 0.51, 0.31
TemperatureFit = Callable[[NDArray[np.floating], NDArray[np.int64]], float]


class Reporter(Protocol):
    """What a training run tells while it goes on."""

    def start(self, phase: str, steps: int) -> None:
        """A phase of ``steps`` optimiser steps begins."""

    def tick(self) -> None:
        """One step is done."""

    def epoch(self, phase: str, row: dict[str, float]) -> None:
        """An epoch is done; ``row`` is its line of the metrics file."""


class TrainingRun:
    """Training of one model on one face set; every step of it can be resumed.

    Args:
        folder: where everything is written.
        model_name: configuration, see ``poster-edge models``.
        faces: labelled images.
        points: landmarks of the same rows, or None to train without landmark pre-training.
        recipe: of the expression training; see :func:`poster_edge.train.recipe.recipe_for`.
        landmark_epochs: epochs of landmark pre-training.
        device: where to compute.
        reporter: told about progress.
        init: checkpoint whose weights to start from, landmark stream included, instead of from scratch.
        trunk: torchvision's file for the network's residual trunk to start from.
        teachers: checkpoints of the same classes and preprocessing whose opinion joins the labels, weighted by
            ``recipe.teacher_weight``.

    Raises:
        UsageError: ``init`` is of another model, ``init`` or a teacher has other classes, there are points but
            the network has no landmark stream, or there is a ``trunk`` and the network has none or ``init`` is there.
    """

    def __init__(
        self,
        folder: Path,
        model_name: str,
        faces: FaceSet,
        points: landmarks.LandmarkSet | None,
        *,
        recipe: Recipe,
        landmark_epochs: int,
        device: Device,
        reporter: Reporter,
        init: Path | None = None,
        trunk: Path | None = None,
        teachers: Sequence[Path] = (),
    ) -> None:
        self.folder, self.faces, self.points = folder, faces, points
        self.recipe, self.device, self.reporter = recipe, device, reporter
        self.landmark_recipe = replace(LANDMARK_RECIPE, epochs=landmark_epochs, seed=recipe.seed)
        self.schedule_changes: list[dict[str, Any]] = []
        self._save_next = 0.0
        torch.manual_seed(recipe.seed)
        torch.set_flush_denormal(True)
        config = model_config(model_name, num_classes=len(faces.classes))
        self.model = device.place(build_network(config))
        if points is not None and self.landmark_stream is None:
            raise UsageError(f"{model_name} has no landmark stream: it trains without --landmarks")
        self.init, self.trunk, self.teachers = init, trunk, tuple(teachers)
        if init is not None and trunk is not None:
            raise UsageError("--init brings the trunk's weights with it: leave out --trunk")
        if init is not None:
            self._start_from(init)
        if trunk is not None:
            load_trunk(self.model, trunk)
        self.preprocess = _preprocess(faces, config.input_size)
        self.split = split_faces(faces, seed=recipe.seed)
        self.normalise = Normalise(self.preprocess, device.name)
        squares = faces.squares(np.arange(len(faces)), config.input_size, self.preprocess.colour)
        self.images = _resident(torch.from_numpy(squares), device)
        self.labels = torch.from_numpy(faces.labels)

    @property
    def landmark_stream(self) -> LandmarkNetwork | None:
        """The part of the network that is trained to find points first, where it has one."""
        return self.model.landmark_stream if isinstance(self.model, WithLandmarks) else None

    def start(self, *, resume: bool) -> None:
        """Prepare the folder.

        Raises:
            UsageError: it holds another run, or there is nothing to resume.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder, older_than_s=0)
        config = self.folder / "config.json"
        wanted: dict[str, Any] = json.loads(json.dumps(self.describe()))
        if resume:
            wanted = self._resumed(config, wanted)
        elif config.exists():
            raise UsageError(f"{self.folder} holds a run already; pass --resume to go on, or choose another -o")
        write_atomic(config, json.dumps(wanted, indent=1) + "\n")

    def _resumed(self, config: Path, wanted: dict[str, Any]) -> dict[str, Any]:
        """Settings of a resumed run: those it began with, but the schedule's length may change."""
        if not config.is_file():
            raise UsageError(f"nothing to resume in {self.folder}")
        began = json.loads(config.read_text())
        self.schedule_changes = began.pop("schedule_changes", [])
        # Options that are newer than the run were what their defaults are now.
        for part in ("recipe", "landmark_recipe"):
            if part in began:
                began[part] = {**_plain(Recipe()), **began[part]}
        old, new = began["recipe"].pop("epochs"), wanted["recipe"]["epochs"]
        if began != {**wanted, "recipe": {k: v for k, v in wanted["recipe"].items() if k != "epochs"}}:
            raise UsageError(f"{config} was started with other options; repeat them or choose another -o")
        if old != new:
            metrics = self.folder / "metrics.csv"
            done = len(metrics.read_text().splitlines()) - 1 if metrics.is_file() else 0
            self.schedule_changes = [*self.schedule_changes, {"after_epoch": done, "epochs": [old, new]}]
        return {**wanted, "schedule_changes": self.schedule_changes} if self.schedule_changes else wanted

    def describe(self) -> dict[str, Any]:
        """What was asked, for the records."""
        return {
            **({"init": describe_source(self.init)} if self.init else {}),
            **({"trunk": describe_source(self.trunk)} if self.trunk else {}),
            **({"teachers": [describe_source(t) for t in self.teachers]} if self.teachers else {}),
            "model": self.model.config.variant,
            "data": self.faces.name,
            **({"soft_targets": True} if self.faces.soft is not None else {}),
            "classes": self.faces.classes,
            "train_images": len(self.split.train),
            "validation_images": len(self.split.validation),
            "validation_twins": int(self.split.twins.sum()),
            "landmarks": self.points is not None,
            **({"landmark_recipe": asdict(self.landmark_recipe)} if self.landmark_stream is not None else {}),
            "recipe": asdict(self.recipe),
            "precision": "bf16" if self.device.autocast else "fp32",
        }

    def _start_from(self, path: Path) -> None:
        model, info = load_model(path)
        wanted = (self.model.config.variant, self.faces.classes)
        if (info.model, info.classes) != wanted:
            raise UsageError(
                f"{path} is {info.model} for {', '.join(info.classes)}; this run trains {wanted[0]} for "
                f"{', '.join(wanted[1])}"
            )
        self.model.load_state_dict(model.state_dict())

    def _targets(self, train: Tensor) -> Tensor:
        """Targets (N, C) of all images; teachers that see plain images are asked about the rows ``train`` only."""
        recipe = self.recipe
        soft = None if self.faces.soft is None else torch.from_numpy(self.faces.soft)
        table = targets.smoothed(self.labels, len(self.faces.classes), recipe.label_smoothing, soft=soft)
        if self.teachers and recipe.teacher_view == "plain":
            opinions = [
                targets.opinions(network, self.images, train, self.normalise, self.device)
                for network in self._asked().networks
            ]
            share = recipe.teacher_weight
            table = (1 - share) * table + share * torch.stack(opinions).mean(dim=0)
        return table

    def _asked(self) -> Teachers:
        return Teachers(
            self.teachers,
            classes=self.faces.classes,
            preprocess=self.preprocess,
            device=self.device,
            normalise=self.normalise,
        )

    def train_landmarks(self) -> dict[str, float]:
        """Pre-train the landmark stream; returns its validation errors over face size."""
        network = self.landmark_stream
        if network is None or self.points is None or self.init is not None:
            return {}
        loop = Loop(network, self.landmark_recipe, self.device)
        points = torch.from_numpy(self.points.points)
        trusted = self.points.trusted
        train = torch.from_numpy(self.split.train[trusted[self.split.train]])
        held = torch.from_numpy(self.split.validation[trusted[self.split.validation]])
        network.start_at(points[train])
        faces = loop.take(self.images, held)
        state = self.folder / "landmarks.pt"
        if state.is_file():
            loop.resume(state)
        self.reporter.start("landmarks", (loop.recipe.epochs - loop.progress.epoch) * (len(train) // loop.recipe.batch))
        while loop.progress.epoch < loop.recipe.epochs:
            loss = landmarks.train_epoch(loop, network, self.images, points, train, self.normalise, self.reporter.tick)
            row = landmarks.validate(network, faces, points[held], self.normalise, self.device)
            self._close_epoch(loop, "landmarks", {"train_loss": loss, **row}, state)
        network.load_state_dict(loop.average.state)
        return landmarks.validate(network, faces, points[held], self.normalise, self.device)

    def train_expression(self, *, stop_after_s: float | None = None) -> bool:
        """Train the whole network, a landmark stream frozen; returns False when time ran out before the end."""
        deadline = None if stop_after_s is None else time.monotonic() + stop_after_s
        if isinstance(self.model, WithLandmarks):
            self.model.freeze_landmarks(batch_norm=True)
        loop = Loop(self.model, self.recipe, self.device)
        state = self.folder / "last.pt"
        if state.is_file():
            loop.resume(state)
        train, held = torch.from_numpy(self.split.train), torch.from_numpy(self.split.validation)
        averaged = self.device.place(build_network(self.model.config))
        table = _resident(self._targets(train), self.device)
        teachers = self._asked() if self.teachers and self.recipe.teacher_view == "augmented" else None
        self.reporter.start(
            "expression", (loop.recipe.epochs - loop.progress.epoch) * (len(train) // loop.recipe.batch)
        )
        while loop.progress.epoch < loop.recipe.epochs:
            if deadline is not None and time.monotonic() > deadline:
                self._save(loop, state)
                return False
            began = time.monotonic()
            loss = expression.train_epoch(
                loop, self.model, self.images, table, train, self.normalise, self.reporter.tick, teachers=teachers
            )
            averaged.load_state_dict(loop.average.state)
            logits = expression.predict(averaged, loop.take(self.images, held), self.normalise, self.device)
            metrics = evaluate(logits, self.faces.labels[self.split.validation], self.faces.classes)
            row = {"train_loss": loss, **_row(metrics), "seconds": time.monotonic() - began}
            if metrics.accuracy > loop.progress.best.get("accuracy", -1.0):
                loop.progress.best = {"epoch": loop.progress.epoch + 1, "accuracy": metrics.accuracy}
                save_checkpoint(self.folder / "best.safetensors", loop.average.state, self.info())
            loop.progress.plateau.record(metrics.nll, self.recipe.patience)
            self._close_epoch(loop, "metrics", row, state)
        return True

    def finish(self, fit_temperature: TemperatureFit, landmark_errors: dict[str, float]) -> dict[str, Any]:
        """Measure the best epoch, fit its temperature, write ``summary.json`` and the final metadata."""
        best = self.folder / "best.safetensors"
        model, _ = load_model(best)
        model = self.device.place(model)
        held, labels = self.split.validation, self.faces.labels[self.split.validation]
        rows = torch.from_numpy(held).to(self.images.device)
        logits = expression.predict(model, self.images[rows], self.normalise, self.device)
        temperature = fit_temperature(logits, labels)
        whole = evaluate(logits, labels, self.faces.classes, temperature=temperature)
        alone = ~self.split.twins
        summary = {
            **self.describe(),
            "schedule_changes": self.schedule_changes,
            "epoch": torch.load(self.folder / "last.pt", weights_only=True)["best"]["epoch"],
            "landmark_error_over_face_size": landmark_errors,
            "temperature": temperature,
            "validation": whole.to_dict(),
            "validation_ece_before_temperature": evaluate(logits, labels, self.faces.classes).ece,
            "validation_without_twins": evaluate(
                logits[alone], labels[alone], self.faces.classes, temperature=temperature
            ).to_dict(),
        }
        training = {k: v for k, v in summary.items() if k not in ("classes", "model")}
        save_checkpoint(best, model.state_dict(), replace(self.info(), temperature=temperature, training=training))
        write_atomic(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        return summary

    def info(self) -> ModelInfo:
        """Metadata of a checkpoint of this run."""
        return ModelInfo(
            model=self.model.config.variant,
            classes=self.faces.classes,
            preprocess=self.preprocess,
            dataset=self.faces.dataset,
            source=f"trained by poster-edge train on {self.faces.name}",
        )

    def _close_epoch(self, loop: Loop, name: str, row: dict[str, float], state: Path) -> None:
        loop.progress.epoch += 1
        row = {"epoch": loop.progress.epoch, **row}
        loop.progress.history.append(row)
        if loop.progress.epoch == loop.recipe.epochs or time.monotonic() >= self._save_next:
            self._save(loop, state)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in r.items()} for r in loop.progress.history)
        write_atomic(self.folder / f"{name}.csv", text.getvalue())
        self.reporter.epoch(name, row)

    def _save(self, loop: Loop, state: Path) -> None:
        """Write the state; the next time when epochs have taken 20 times as long as that did."""
        began = time.monotonic()
        loop.save(state)
        ended = time.monotonic()
        self._save_next = ended + (20 * (ended - began) if self.device.is_cuda else 0)


def _resident(table: Tensor, device: Device) -> Tensor:
    """The table in a GPU's memory when it takes at most a quarter of what is free there, else where it is."""
    if device.is_cuda and table.nbytes < torch.cuda.mem_get_info(device.name)[0] / 4:
        return table.to(device.name)
    return table


def _row(metrics: Metrics) -> dict[str, float]:
    return {
        "accuracy": metrics.accuracy,
        "macro_f1": metrics.macro_f1,
        "mean_class_accuracy": metrics.mean_class_accuracy,
        "nll": metrics.nll,
        "ece": metrics.ece,
    }


def _preprocess(faces: FaceSet, size: int) -> Preprocess:
    framing = LABEL_SETS[faces.dataset].framing if faces.dataset in LABEL_SETS else Framing()
    plain = Preprocess(size=size, colour="rgb", margin=framing.margin, shift_y=framing.shift_y)
    if not faces.is_gray:
        return plain
    return replace(plain, colour="gray", mean=(GRAY_MEAN,) * 3, std=(GRAY_STD,) * 3)


def _plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON gives it back."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return values
