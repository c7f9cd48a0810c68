"""One training run in one folder: landmark pre-training, expression training, records.

Folder: ``config.json`` (what was asked), ``landmarks.csv`` and ``metrics.csv`` (a row per epoch),
``landmarks.safetensors`` and ``last.safetensors`` (resumable state), ``best.safetensors`` (best epoch on the
validation split), ``summary.json``.  Of several processes the first one writes them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poster_edge.data.faces import FaceSet
from poster_edge.data.split import Split, split_faces, split_fold
from poster_edge.errors import UsageError
from poster_edge.files import sweep, write_atomic
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import ModelInfo, describe_source, load_model, save_checkpoint
from poster_edge.models.network import LandmarkNetwork, Network, WithLandmarks
from poster_edge.train import expression, landmarks, targets
from poster_edge.train.budget import DECIDED_AFTER, Budget
from poster_edge.train.loop import Device, Loop, check_parts, fitting
from poster_edge.train.losses import as_one, loss_terms
from poster_edge.train.metrics import evaluate
from poster_edge.train.normalise import Normalise
from poster_edge.train.pictures import Pictures
from poster_edge.train.prepare import network_config, preprocess_for, resident
from poster_edge.train.recipe import LANDMARK_RECIPE, Recipe
from poster_edge.train.records import check_folder, metric_row, resumed_settings, write_rows
from poster_edge.train.reporter import Reporter
from poster_edge.train.shared_norm import share_norms
from poster_edge.train.starting_weights import StartingWeights
from poster_edge.train.state import load_state
from poster_edge.train.teachers import Teachers
from poster_edge.train.team import Team

TemperatureFit = Callable[[NDArray[np.floating], NDArray[np.int64]], float]


class TrainingRun:
    """Training of one model on one face set; every step of it can be resumed.

    Args:
        folder: where everything is written.
        model_name: configuration, see ``poster-edge models``.
        faces: labelled images.
        points: landmarks of the same rows, or None to train without landmark pre-training.
        recipe: of the expression training; see :mod:`poster_edge.train.recipe_file`.
        landmark_epochs: epochs of landmark pre-training.
        landmark_lr: its peak learning rate; None: that of its recipe.
        device: where to compute.
        reporter: told about progress.
        weights: files to start from instead of from scratch.
        teachers: checkpoints of the same classes whose opinion joins the labels, weighted by
            ``recipe.teacher_weight``.
        fold: (number, of how many) to validate on, 1 the first; None: the data set's split, or a tenth of it.
        team: the processes that train together.
        images: where images are kept, one of :data:`poster_edge.train.pictures.KINDS`.
        budget: the number of epochs is what fits into it, decided after the first ones; None: the recipe's.

    Raises:
        UsageError: a file of ``weights`` or a teacher is of another model or other classes, there are points but
            the network has no landmark stream or one that is trained, there is no such fold, or images do not fit.
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
        weights: StartingWeights | None = None,
        teachers: Sequence[Path] = (),
        fold: tuple[int, int] | None = None,
        team: Team | None = None,
        images: str = "auto",
        budget: Budget | None = None,
        landmark_lr: float | None = None,
    ) -> None:
        self.folder, self.faces, self.points = folder, faces, points
        if budget is not None:
            recipe = replace(recipe, epochs=max(recipe.epochs, DECIDED_AFTER + 1))
        self.recipe, self.device, self.reporter = recipe, device, reporter
        self.weights, self.teachers = weights or StartingWeights(), tuple(teachers)
        self.fold, self.team, self.budget = fold, team or Team(), budget
        rate = LANDMARK_RECIPE.lr if landmark_lr is None else landmark_lr
        self.landmark_recipe = replace(LANDMARK_RECIPE, epochs=landmark_epochs, seed=recipe.seed, lr=rate)
        self.schedule_changes: list[dict[str, Any]] = []
        self._save_next = 0.0
        check_parts(recipe, self.team)
        torch.manual_seed(recipe.seed)
        torch.set_flush_denormal(True)
        self.config = network_config(model_name, len(faces.classes), recipe)
        self.model = self._network()
        self.preprocess = preprocess_for(faces, self.config.input_size, recipe)
        self.split = self._split()
        self.normalise = Normalise(self.preprocess, device.name)
        self.judges = (
            Teachers(self.teachers, classes=faces.classes, preprocess=self.preprocess, device=device)
            if teachers
            else None
        )
        rows, side = np.concatenate([self.split.train, self.split.validation]), self.config.input_size
        colour, beside = self.preprocess.colour, self.team.beside
        self.images = Pictures(faces, rows, side, colour, device, kind=images, sharers=beside)
        self.labels = torch.from_numpy(faces.labels)

    def _network(self) -> Network:
        model = self.device.place(build_network(self.config))
        if self.points is not None and not isinstance(model, WithLandmarks):
            raise UsageError(f"{self.config.variant} has no landmark stream: it trains without --landmarks")
        if self.points is not None and self.weights.landmark is not None:
            raise UsageError("--landmark-weights brings a trained landmark stream: leave out --landmarks")
        self.taken = self.weights.load(model, self.faces.classes)
        if self.team.size > 1 and self.recipe.sync_norm:
            share_norms(model, self.device.name)
        return model

    def _split(self) -> Split:
        if self.fold is None:
            return split_faces(self.faces, seed=self.recipe.seed)
        number, folds = self.fold
        return split_fold(self.faces, number, folds=folds, seed=self.recipe.seed)

    @property
    def landmark_stream(self) -> LandmarkNetwork | None:
        """The part of the network that is trained to find points first, where it has one."""
        return self.model.landmark_stream if isinstance(self.model, WithLandmarks) else None

    def start(self, *, resume: bool) -> None:
        """Prepare the folder.

        Raises:
            UsageError: it holds another run, or there is nothing to resume.
        """
        config = self.folder / "config.json"
        check_folder(self.folder, resume=resume)
        wanted: dict[str, Any] = json.loads(json.dumps(self.describe()))
        if resume:
            wanted = resumed_settings(self.folder, wanted, keep_epochs=self.budget is not None)
            self.recipe = replace(self.recipe, epochs=wanted["recipe"]["epochs"])
            self.schedule_changes = wanted.get("schedule_changes", [])
        # No process looks for what another one has begun to write.
        self.team.wait()
        if self.team.leads:
            sweep(self.folder, older_than_s=0)
            self._write_config(wanted)
        self.team.wait()
        if not config.is_file():
            raise UsageError(f"{self.folder} is not the same folder for all processes: put it on a shared disk")

    def _write_config(self, settings: dict[str, Any]) -> None:
        write_atomic(self.folder / "config.json", json.dumps(settings, indent=1) + "\n")

    def describe(self) -> dict[str, Any]:
        """What was asked, for the records."""
        return {
            **self.weights.describe(),
            **({"teachers": [describe_source(t) for t in self.teachers]} if self.teachers else {}),
            "model": self.model.config.variant,
            "data": self.faces.name,
            **({"soft_targets": True} if self.faces.soft is not None else {}),
            "classes": self.faces.classes,
            **({"fold": list(self.fold)} if self.fold else {}),
            "train_images": len(self.split.train),
            "validation_images": len(self.split.validation),
            "validation_twins": int(self.split.twins.sum()),
            "landmarks": self.points is not None,
            **({"landmark_recipe": asdict(self.landmark_recipe)} if self.landmark_stream is not None else {}),
            "recipe": asdict(self.recipe),
            "precision": self.device.arithmetic,
        }

    def _targets(self, train: Tensor) -> Tensor:
        """Targets (N, C) of all images; teachers that see plain images are asked about the rows ``train`` only."""
        recipe = self.recipe
        soft = None if self.faces.soft is None else torch.from_numpy(self.faces.soft)
        smoothing = as_one(loss_terms(recipe)).smoothing
        table = targets.smoothed(self.labels, len(self.faces.classes), smoothing, soft=soft)
        if self.judges is not None and recipe.teacher_view == "plain":
            share = recipe.teacher_weight
            table = (1 - share) * table + share * self._opinions(self.judges, train)
        return table

    def _opinions(self, judges: Teachers, train: Tensor) -> Tensor:
        """What teachers think of the rows ``train``, (N, C); each process asks them about a part."""
        own = train.tensor_split(self.team.size)[self.team.rank]
        self.reporter.start("teachers", judges.pieces(len(own)))
        found = judges.opinions(self.faces, own, self.images, self.reporter.tick)
        out = torch.zeros_like(found)
        out[train] = self.team.gather(found[own])
        return out

    def train_landmarks(self, *, stop_after_s: float | None = None) -> dict[str, float] | None:
        """Pre-train the landmark stream; returns its validation errors over face size, None when time ran out."""
        deadline = _deadline(stop_after_s)
        network = self.landmark_stream
        if network is None or self.points is None or self.taken.landmarks:
            return {}
        loop = self._loop(network, fitting(self.landmark_recipe, self.team), "landmarks")
        points = torch.from_numpy(self.points.points)
        train, held = (self.points.trusted_among(rows) for rows in (self.split.train, self.split.validation))
        network.start_at(points[train])
        faces = loop.take(self.images, held)
        state = self._take_up(loop, "landmarks", len(train))
        while loop.progress.epoch < loop.recipe.epochs:
            if self.team.agree(time.monotonic() > deadline):
                self._save(loop, state)
                return None
            loss = landmarks.train_epoch(loop, network, self.images, points, train, self.normalise, self.reporter.tick)
            row = landmarks.validate(network, faces, points[held], self.normalise, self.device)
            self._close_epoch(loop, "landmarks", {"train_loss": loss, **row}, state)
        self.team.copy_first(loop.average.state)
        network.load_state_dict(loop.average.state)
        return landmarks.validate(network, faces, points[held], self.normalise, self.device)

    def train_expression(self, *, stop_after_s: float | None = None) -> bool:
        """Train the whole network, a landmark stream frozen; returns False when time ran out before the end."""
        deadline = _deadline(stop_after_s)
        if isinstance(self.model, WithLandmarks):
            self.model.freeze_landmarks(batch_norm=self.recipe.freeze_landmark_bn)
        loop = self._loop(self.model, self.recipe, "forward")
        train, held = torch.from_numpy(self.split.train), torch.from_numpy(self.split.validation)
        averaged = self.device.place(build_network(self.config))
        table = resident(self._targets(train), self.device)
        teachers = self.judges if self.recipe.teacher_view == "augmented" else None
        state = self._take_up(loop, "expression", len(train))
        while not self._ended(loop):
            if self.team.agree(time.monotonic() > deadline):
                self._save(loop, state)
                return False
            began = time.monotonic()
            loss = expression.train_epoch(
                loop,
                self.model,
                self.images,
                table,
                train,
                self.normalise,
                self.reporter.tick,
                labels=self.labels,
                teachers=teachers,
            )
            # Where BatchNorm is each process's own, the first one's statistics are kept.
            self.team.copy_first(loop.average.state)
            averaged.load_state_dict(loop.average.state)
            metrics = evaluate(self._logits(averaged, held), self.faces.labels[held.numpy()], self.faces.classes)
            row = {"train_loss": loss, **metric_row(metrics), "seconds": time.monotonic() - began}
            if metrics.accuracy > loop.progress.best.get("accuracy", -1.0):
                loop.progress.best = {"epoch": loop.progress.epoch + 1, "accuracy": metrics.accuracy}
                if self.team.leads:
                    save_checkpoint(self.folder / "best.safetensors", loop.average.state, self.info())
            loop.progress.plateau.record(metrics.nll, self.recipe.patience)
            if self.budget is not None and loop.progress.epoch + 1 == DECIDED_AFTER:
                self._keep_to(self.budget, loop, row["seconds"])
            self._close_epoch(loop, "metrics", row, state)
        return True

    def _keep_to(self, budget: Budget, loop: Loop, last: float) -> None:
        """Take as many epochs as fit; ``last``: seconds of the epoch that is about to be closed."""
        done, old = loop.progress.epoch + 1, self.recipe.epochs
        new = self.team.agree(budget.epochs([*(row["seconds"] for row in loop.progress.history), last]))
        self.recipe = loop.recipe = replace(self.recipe, epochs=new)
        if old != new:
            change = {"after_epoch": done, "epochs": [old, new], "within_minutes": round(budget.seconds / 60, 3)}
            self.schedule_changes.append(change)
        if self.team.leads:
            self._write_config({**self.describe(), "schedule_changes": self.schedule_changes})
        self.reporter.start("expression", (new - done) * (len(self.split.train) // self.recipe.batch))

    def _loop(self, network: torch.nn.Module, recipe: Recipe, method: str) -> Loop:
        return Loop(network, recipe, self.device, self.team, method=method, side=self.config.input_size)

    def _take_up(self, loop: Loop, phase: str, images: int) -> Path:
        """Resume a phase where there is something to resume; returns where its state is kept."""
        state = self.folder / ("last.safetensors" if phase == "expression" else f"{phase}.safetensors")
        # Runs that began before states were safetensors have them under this name.
        older = state.with_suffix(".pt")
        found = older if older.is_file() and not state.is_file() else state
        if found.is_file():
            loop.resume(found)
        self.reporter.start(phase, (loop.recipe.epochs - loop.progress.epoch) * (images // loop.recipe.batch))
        return state

    def _ended(self, loop: Loop) -> bool:
        """Whether all epochs are done, or none of so many has been better than the best."""
        done, patience = loop.progress.epoch, self.recipe.early_stop
        return done >= loop.recipe.epochs or bool(patience and done - loop.progress.best.get("epoch", done) >= patience)

    def _logits(self, network: Network, rows: Tensor) -> NDArray[np.float32]:
        """Logits of these rows, of which each process computes a part."""
        own = rows.tensor_split(self.team.size)[self.team.rank]
        logits = expression.predict(network, self.images, own, self.normalise, self.device)
        return self.team.gather(torch.from_numpy(logits)).numpy()

    def finish(self, fit_temperature: TemperatureFit, landmark_errors: dict[str, float]) -> dict[str, Any]:
        """Measure the best epoch, fit its temperature, write ``summary.json`` and the final metadata."""
        summary = self._finish(fit_temperature, landmark_errors) if self.team.leads else {}
        agreed: dict[str, Any] = self.team.agree(summary)
        return agreed

    def _finish(self, fit_temperature: TemperatureFit, landmark_errors: dict[str, float]) -> dict[str, Any]:
        best = self.folder / "best.safetensors"
        model, _ = load_model(best)
        model = self.device.place(model)
        held, labels = self.split.validation, self.faces.labels[self.split.validation]
        logits = expression.predict(model, self.images, torch.from_numpy(held), self.normalise, self.device)
        temperature = fit_temperature(logits, labels)
        whole = evaluate(logits, labels, self.faces.classes, temperature=temperature)
        alone = ~self.split.twins
        state = load_state(self.folder / "last.safetensors")
        summary = {
            **self.describe(),
            "without_label": self.faces.left_out,
            "schedule_changes": self.schedule_changes,
            "epochs_done": state["epoch"],
            "epoch": state["best"]["epoch"],
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
        ended = loop.progress.epoch == loop.recipe.epochs or (name == "metrics" and self._ended(loop))
        if ended or time.monotonic() >= self._save_next:
            self._save(loop, state)
        if self.team.leads:
            write_rows(self.folder / f"{name}.csv", loop.progress.history)
        self.reporter.epoch(name, row)
        # A resumed run must not find a state that is being written.
        self.team.wait()

    def _save(self, loop: Loop, state: Path) -> None:
        """Write the state; the next time when epochs have taken 20 times as long as that did."""
        if not self.team.leads:
            return
        began = time.monotonic()
        loop.save(state)
        ended = time.monotonic()
        self._save_next = ended + (20 * (ended - began) if self.device.is_cuda else 0)


def _deadline(seconds: float | None) -> float:
    """When so many seconds will have passed, on the monotonic clock; None: never."""
    return math.inf if seconds is None else time.monotonic() + seconds
