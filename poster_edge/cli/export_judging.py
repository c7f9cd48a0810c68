"""Who judges a lower precision, on what, in which runtime: the gate's hands.

Every candidate is executed by the very runner that ``run`` will use, from a bundle of its own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from poster_edge.calib.batches import CalibrationSet, sample_rows
from poster_edge.calib.gate import GateReport, judge
from poster_edge.calib.suitability import ImageStatistics, StatisticsCollector
from poster_edge.calib.temperature import fit_temperature, match_temperature
from poster_edge.cli import console
from poster_edge.cli.calib_source import holds_faces
from poster_edge.cli.eval_report import select
from poster_edge.cli.export_options import Options
from poster_edge.data.faces import FaceSet, load_faces
from poster_edge.errors import InputError
from poster_edge.optional import available
from poster_edge.runtime.bundle import MODEL_FILE, Bundle, write_bundle
from poster_edge.runtime.choose import make_runner
from poster_edge.runtime.int8_sums import sums_int8_exactly
from poster_edge.runtime.manifest import MODEL_FILES, Manifest
from poster_edge.train.metrics import softmax
from poster_edge.vision.samples import sample_crops


class Judge:
    """Compares candidates with the float32 model on the same images.

    Args:
        manifest: of the model.
        graph: its float32 ONNX file.
        options: what was asked for.
        folder: for temporary files.

    Attributes:
        images: what is judged on; set by :meth:`choose_images`.
        last_logits: file -> logits of float32 and of its last candidate on those images.
    """

    def __init__(self, manifest: Manifest, graph: Path, options: Options, folder: Path) -> None:
        self.manifest, self.graph_path, self.options, self.folder = manifest, graph, options, folder
        self.preprocess, self.classes = manifest.preprocess, manifest.classes
        self.batch = max(1, min(64, (1 << 21) // (3 * self.preprocess.size**2)))
        self.last_logits: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        self._reference: dict[str, NDArray[np.float32]] = {}
        self._bundles = 0

    def choose_images(self, calibration: CalibrationSet | None) -> None:
        """Decide what is judged on; ``calibration`` are the calibration images, where there are some."""
        self.images = self._judge_set(calibration)

    def statistics(self, images: CalibrationSet, logits: NDArray[np.float32]) -> ImageStatistics:
        """What images look like, and the classes that float32's logits (N, C) see in them."""
        collector = StatisticsCollector(len(self.classes))
        start = 0
        for batch in images.batches(self.preprocess, self.batch):
            collector.update(batch, logits[start : start + len(batch)])
            start += len(batch)
        return collector.result()

    def _judge_set(self, calibration: CalibrationSet | None) -> CalibrationSet:
        """Labelled held-out faces where there are some, else the packaged photos and calibration images."""
        trained = self.manifest.has_trained_weights
        if self.options.data is not None:
            return _held_out(load_faces(self.options.data), self.classes, self.options, labelled=trained)
        source = self.options.calib
        if source is not None and holds_faces(source, self.classes):
            faces = load_faces(source)
            if len(faces.indices("validation")):
                return _held_out(faces, self.classes, self.options, labelled=trained)
        crops: list[NDArray[np.uint8]] = sample_crops(self.preprocess)
        name = f"{len(crops)} views of the packaged photos"
        if calibration is not None:
            few = min(calibration.count, 256)
            crops += [calibration.read(i) for i in range(few)]
            name += f" and {few} calibration images"
        return CalibrationSet(name, len(crops), crops.__getitem__, None, ())

    def float_bundle(self) -> Bundle:
        """The float32 model alone, as a bundle."""
        return self._bundle(MODEL_FILE, self.graph_path)

    def _bundle(self, file: str, path: Path) -> Bundle:
        self._bundles += 1
        folder = self.folder / f"candidate-{self._bundles}"
        return write_bundle(folder, replace(self.manifest, precision=MODEL_FILES[file][0]), {file: path})

    def logits(
        self, bundle: Bundle, precision: str, runtime: str, images: CalibrationSet
    ) -> tuple[NDArray[np.float32], str]:
        """Logits (N, C) as the runtime computes them, and what the runtime says it is."""
        manifest = bundle.manifest
        runner = make_runner(bundle, runtime=runtime, precision=precision, device="cpu", threads=self.options.threads)
        with runner, console.progress_bar() as bar:
            task = bar.add_task(f"{precision}, {runtime}", total=images.count)
            out = []
            for batch in images.batches(self.preprocess, self.batch):
                out.append(np.asarray(runner.infer({manifest.input_name: batch})[manifest.output_name], np.float32))
                bar.advance(task, len(batch))
        return np.concatenate(out), runner.description

    def float_logits(self, runtime: str) -> NDArray[np.float32]:
        """Float32's logits (N, C) on the judging images, computed once per runtime."""
        if runtime not in self._reference:
            self._reference[runtime] = self.logits(self.float_bundle(), "fp32", runtime, self.images)[0]
        return self._reference[runtime]

    def judge(self, file: str, path: Path) -> tuple[GateReport, float]:
        """The gate's report on one model, and the temperature that was fitted for it."""
        precision, runtime = MODEL_FILES[file][0], self._runtime(file)
        reference = self.float_logits(runtime)
        logits, description = self.logits(self._bundle(file, path), precision, runtime, self.images)
        self.last_logits[file] = (reference, logits)
        temperature, own = self.manifest.temperature, self.manifest.temperature
        if np.isfinite(logits).all():
            own = (
                fit_temperature(logits, self.images.labels)
                if self.images.labels is not None
                else match_temperature(logits, softmax(reference, temperature=temperature))
            )
        report = judge(
            reference,
            logits,
            self.images.labels,
            self.classes,
            temperatures=(temperature, own),
            thresholds=self.options.thresholds,
            precision=precision,
            file=file,
            runtime=description,
            data=self.images.name,
        )
        return report, own

    def _runtime(self, file: str) -> str:
        """What executes a file here: its own target where that can be had on this machine."""
        precision, placement = MODEL_FILES[file]
        if not available("openvino") or not (placement == "inputs" or self.options.target == "openvino"):
            return "onnxruntime"
        exact = precision == "fp16" or self.options.weight_bits == 7 or sums_int8_exactly()
        return "openvino" if exact else "onnxruntime"


def _held_out(faces: FaceSet, classes: tuple[str, ...], options: Options, *, labelled: bool) -> CalibrationSet:
    """Labelled rows that judge: the validation split where there is one, else all."""
    rows = select(faces, classes, "auto")
    chosen = sample_rows(None, len(rows.labels), options.judged, options.seed)
    if not len(chosen):
        raise InputError(f"{faces.name}: no images to judge on")
    indices, labels = rows.indices[chosen], rows.labels[chosen]
    name = f"{faces.name} ({rows.split})"
    return CalibrationSet(
        name, len(indices), lambda i: faces.read(int(indices[i])), labels if labelled else None, classes
    )
