"""Runs the comparisons of ``poster-edge bench`` and judges their answers on labelled faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.bench.candidates import Candidate, Comparison, Wanted, comparisons
from poster_edge.bench.energy import EnergyReport
from poster_edge.bench.energy_bench import Energy
from poster_edge.bench.energy_meters import Rail
from poster_edge.bench.environment import read_environment
from poster_edge.bench.measure import Measured, measure
from poster_edge.bench.process import Process
from poster_edge.bench.records import Answers, Group, Record, row
from poster_edge.bench.work import Frames
from poster_edge.calib.batches import sample_rows
from poster_edge.cli import console
from poster_edge.cli.eval_report import select
from poster_edge.data.faces import FaceSet, load_faces
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.classifier import require_finite
from poster_edge.train.metrics import evaluate

#: Face crops that travel to a candidate's process at once, and numbers that they may become there.
_BATCH, _NUMBERS = 64, 1 << 21


def run(
    bundles: Sequence[tuple[str, Bundle]],
    wanted: Wanted,
    *,
    duration_s: float,
    frames: Frames | None,
    data: Path | None,
    dataset: str | None,
    count: int | None,
    rails: Sequence[Rail] = (),
) -> Record:
    """Make every comparison and the record of all; what is asked of the data comes first.

    Energy is measured after the timed part of a comparison, where there are rails.

    Raises:
        PosterEdgeError: something asked for cannot be served, or the data cannot be read.
    """
    planned, notes = comparisons(bundles, wanted)
    for bundle in (b for _, b in bundles if not b.manifest.has_trained_weights):
        console.message(f"{bundle.folder} has random weights: its speed means something, its accuracy does not")
    for note in notes:
        console.message(note)
    judge = _Judge(dict(bundles), load_faces(data, dataset=dataset), count) if data else None
    environment = read_environment()
    groups = []
    for number, comparison in enumerate(planned):
        title = f"comparison {number + 1} of {len(planned)}"
        groups.append(_compare(comparison, title, duration_s, frames, judge, Energy(rails) if rails else None))
    settings = {
        "models": [model for model, _ in bundles],
        "duration_s": duration_s,
        "data": data.name if data else None,
        "source": Path(frames.source).name if frames else None,
        "detector": frames.detector if frames else None,
        "device": wanted.device,
    }
    return Record(environment, settings, tuple(groups))


def _compare(
    comparison: Comparison,
    title: str,
    duration_s: float,
    frames: Frames | None,
    judge: _Judge | None,
    energy: Energy | None,
) -> Group:
    joules: dict[Candidate, EnergyReport] = {}

    def afterwards(process: Process) -> None:
        if energy:
            candidate = process.candidate
            console.message(f"energy of {candidate.label}")
            # A frame has as many faces as were found in it.
            faces = process.stages().get("faces", 1.0) if candidate.scope == "frame" else candidate.batch
            joules[candidate] = energy.of(process.turn, faces_per_call=faces)
        if judge:
            judge.ask(process)

    with console.progress_bar() as bar:
        task = bar.add_task(title, total=100)
        found, noise = measure(
            comparison,
            duration_s=duration_s,
            frames=frames,
            notify=console.message,
            advance=lambda share: bar.update(task, completed=int(100 * share)),
            afterwards=afterwards,
        )
    rows = []
    for one in found:
        baseline = _baseline_of(one, found)
        answers = judge.answers(one.candidate, baseline.candidate) if judge else None
        rows.append(row(one, baseline, answers, joules.get(one.candidate)))
    return Group(tuple(rows), noise)


def _baseline_of(one: Measured, found: Sequence[Measured]) -> Measured:
    return next(m for m in found if m.candidate.baseline and m.candidate.model == one.candidate.model)


@dataclass
class _Judge:
    """Asks each candidate about the same faces, once, whatever its batch, threads and scope."""

    bundles: dict[str, Bundle]
    faces: FaceSet
    count: int | None
    _logits: dict[Any, NDArray[np.float32]] = field(default_factory=dict)
    _rows: dict[str, tuple[list[NDArray[np.uint8]], NDArray[np.int64]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for model, bundle in self.bundles.items():
            rows = select(self.faces, bundle.manifest.classes, "auto")
            chosen = np.arange(len(rows.labels))
            if self.count and self.count < len(chosen):
                chosen = sample_rows(None, len(chosen), self.count, 0)
            self._rows[model] = [self.faces.read(int(i)) for i in rows.indices[chosen]], rows.labels[chosen]

    def ask(self, process: Process) -> None:
        """Get a candidate's logits, unless they are known."""
        candidate = process.candidate
        if candidate.weights in self._logits:
            return
        crops, _ = self._rows[candidate.model]
        side = self.bundles[candidate.model].manifest.preprocess.size
        batch = max(1, min(_BATCH, _NUMBERS // (3 * side * side)))
        with console.progress_bar() as bar:
            task = bar.add_task(f"faces, {candidate.label}", total=len(crops))
            parts = []
            for start in range(0, len(crops), batch):
                parts.append(process.logits(crops[start : start + batch]))
                bar.advance(task, batch)
        logits = np.concatenate(parts)
        require_finite(logits, where=f"{candidate.label}, {self.faces.name}", runtime=candidate.runtime)
        self._logits[candidate.weights] = logits

    def answers(self, candidate: Candidate, baseline: Candidate) -> Answers:
        """Accuracy, and agreement with the baseline."""
        manifest = self.bundles[candidate.model].manifest
        own, other = self._logits[candidate.weights], self._logits[baseline.weights]
        labels = self._rows[candidate.model][1]
        agreement = float((own.argmax(axis=1) == other.argmax(axis=1)).mean())
        answers = Answers(len(labels), None, None, agreement, len(np.unique(other.argmax(axis=1))))
        if not manifest.has_trained_weights:
            return answers
        metrics = evaluate(own, labels, manifest.classes)
        return replace(answers, accuracy=metrics.accuracy, accuracy_ci95=metrics.accuracy_ci95)
