"""The lower precisions of ``poster-edge export``: calibrate, convert, judge, restore, keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from poster_edge.calib.batches import CalibrationSet
from poster_edge.calib.cache import FILE_NAME as CALIBRATION_FILE
from poster_edge.calib.cache import Calibration, from_histograms
from poster_edge.calib.collect import collect
from poster_edge.calib.gate import GateReport, pass_by_restoring
from poster_edge.calib.histogram import StreamingHistogram
from poster_edge.calib.qdq import quantise, tensors_to_calibrate
from poster_edge.calib.sensitivity import LayerError, layer_errors
from poster_edge.calib.suitability import MAX_DISTANCE, mismatches
from poster_edge.cli import console
from poster_edge.cli.calib_source import open_calibration
from poster_edge.cli.export_draft import Draft
from poster_edge.cli.export_fastest import fastest
from poster_edge.cli.export_judging import Judge
from poster_edge.cli.export_options import Options
from poster_edge.errors import GateError, UsageError
from poster_edge.export.fp16 import input_range, overflow_islands, to_fp16
from poster_edge.files import sha256, write_atomic
from poster_edge.runtime.bundle import MODEL_FILE, write_bundle
from poster_edge.runtime.choose import make_runner
from poster_edge.runtime.int8_sums import sums_int8_exactly
from poster_edge.runtime.manifest import MODEL_FILES
from poster_edge.runtime.timing import interleaved

#: What is computed in INT8; see README, "Precision", for what was measured.
KINDS = ("conv", "linear")
#: Precision -> target -> the files it needs.
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "fp32": dict.fromkeys(("all", "onnxruntime", "openvino", "tensorrt"), ()),
    "fp16": dict.fromkeys(("all", "onnxruntime", "openvino", "tensorrt"), ("model.fp16.onnx",)),
    "int8": {
        "all": ("model.int8.onnx", "model.int8-inputs.onnx"),
        "onnxruntime": ("model.int8.onnx",),
        "openvino": ("model.int8-inputs.onnx",),
        "tensorrt": ("model.int8-inputs.onnx",),
    },
}
#: Images on which the error of single layers and the range of FP16 are measured.
_FEW = 32
#: The packaged photos are unlike any data set: only gross differences to them mean anything.
_PHOTO_DISTANCE = 3.0


@dataclass
class Findings:
    """What came out, for messages and the report; filled as the work goes on."""

    reports: dict[str, GateReport] = field(default_factory=dict)
    calibration: Calibration | None = None
    histograms: dict[str, StreamingHistogram] = field(default_factory=dict)
    errors: list[LayerError] = field(default_factory=list)
    timings: list[tuple[str, float, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Lowering:
    """Makes the lower precisions of one draft.

    Args:
        draft: with the float32 graph.
        calibration: the model's own ranges, where it has some.
        options: what was asked for.
        folder: for temporary files.
        notify: told in one line of whatever the user should know.
    """

    def __init__(
        self,
        draft: Draft,
        calibration: Calibration | None,
        options: Options,
        folder: Path,
        notify: Callable[[str], None],
    ) -> None:
        self.draft, self.options, self.folder, self.notify = draft, options, folder, notify
        self.preprocess = draft.manifest.preprocess
        self.classes = draft.manifest.classes
        self.graph_path = draft.files[MODEL_FILE]
        self.graph_hash = sha256(self.graph_path)
        self.model = onnx.load(str(self.graph_path))
        self.own = calibration
        self.found = Findings()
        self._calibration_set: CalibrationSet | None = None
        self.judge = Judge(draft.manifest, self.graph_path, options, folder)
        self._inside_batch = max(1, min(32, (1 << 19) // (3 * self.preprocess.size**2)))

    def run(self) -> Draft:
        """Make what was asked for; returns the draft with the models that passed.

        Raises:
            GateError: a precision asked for by name does not pass.
            UsageError, InputError, UnavailableError: no calibration images, or not usable ones.
        """
        options = self.options
        if "int8" in options.precisions or options.calib is not None:
            self._calibrate()
        self.judge.choose_images(self._calibration_set)
        if self.found.calibration is not None and options.gate:
            self._check_calibration_images(self.found.calibration)
        draft = self.draft
        for precision in options.precisions:
            if precision == "int8" and options.precision == "auto" and self._openvino_saturates():
                self._warn("INT8 is left out: OpenVINO's sums saturate on this CPU, which has no VNNI")
                continue
            for file in FILES[precision][options.target]:
                draft = self._lower(draft, file)
        precision = options.precision
        if precision == "auto":
            draft, precision = self._fastest(draft)
        files = dict(draft.files)
        has_int8 = "int8" in {MODEL_FILES.get(f, ("",))[0] for f in files}
        if self.found.calibration is not None and (has_int8 or not options.precisions):
            files[CALIBRATION_FILE] = self.folder / CALIBRATION_FILE
            self.found.calibration.write(files[CALIBRATION_FILE])
        calibrated = self.found.calibration if CALIBRATION_FILE in files else None
        manifest = replace(
            draft.manifest,
            precision=precision,
            gate=self._gate_record({f: r for f, r in self.found.reports.items() if f in files}),
            calibration=(
                {**calibrated.summary(options.method), "weight_bits": options.weight_bits} if calibrated else None
            ),
        )
        return replace(draft, manifest=manifest, files=files)

    def _openvino_saturates(self) -> bool:
        return self.options.target == "openvino" and self.options.weight_bits == 8 and not sums_int8_exactly()

    def paths(self) -> dict[str, Path]:
        """Models made so far, whether they passed or not, and the float32 one."""
        made = {f: self.folder / f for f in MODEL_FILES if (self.folder / f).is_file()}
        return {MODEL_FILE: self.graph_path, **made}

    def _warn(self, text: str) -> None:
        """Say what the report says too."""
        self.found.warnings.append(text)
        self.notify(text)

    # Calibration -----------------------------------------------------------------------------------------------

    def _calibrate(self) -> None:
        options = self.options
        if options.calib is None:
            if self.own is None:
                raise UsageError("INT8 needs images to calibrate on: --calib DATA (faces, photos or a video)")
            self.own.check_fits(self.graph_hash)
            self.found.calibration = self.own
            return
        images = open_calibration(
            options.calib,
            self.preprocess,
            count=options.images,
            seed=options.seed,
            classes=self.classes,
            notify=self._warn,
        )
        self._calibration_set = images
        logits = self.judge.logits(self.judge.float_bundle(), "fp32", "onnxruntime", images)[0]
        with console.progress_bar() as bar:
            task = bar.add_task("calibration", total=images.count)
            self.found.histograms = collect(
                self.model,
                tensors_to_calibrate(self.model),
                images.batches(self.preprocess, self._inside_batch),
                threads=options.threads,
                tick=lambda n: bar.advance(task, n),
            )
        self.found.calibration = Calibration(
            graph_sha256=self.graph_hash,
            data_sha256=images.digest(),
            data=images.name,
            images=images.count,
            seed=options.seed,
            statistics=self.judge.statistics(images, logits),
            ranges=from_histograms(self.found.histograms),
        )

    def _check_calibration_images(self, calibration: Calibration) -> None:
        """Noise, one class or swapped colours are refused before anything is built on them."""
        seen = self.judge.statistics(self.judge.images, self.judge.float_logits("onnxruntime"))
        distance = MAX_DISTANCE if self.judge.images.labels is not None else _PHOTO_DISTANCE
        reasons = mismatches(calibration.statistics, seen, self.classes, max_distance=distance)
        if reasons:
            raise GateError(
                f"{calibration.data} is no fit calibration set: {'; '.join(reasons)}; nothing was written "
                "(--no-gate takes it all the same)"
            )

    # Converting ------------------------------------------------------------------------------------------------

    def _lower(self, draft: Draft, file: str) -> Draft:
        temperatures: dict[str, float] = {}
        path = self.folder / file

        def attempt(floats: frozenset[str]) -> GateReport:
            write_atomic(path, self._convert(file, floats).SerializeToString())
            report, temperatures[file] = self.judge.judge(file, path)
            return report

        if not self.options.gate:
            write_atomic(path, self._convert(file, frozenset()).SerializeToString())
            return replace(draft, files={**draft.files, file: path})
        report, floats = pass_by_restoring(attempt, lambda: self._ranking(file))
        kept = sorted(floats)
        report = replace(report, restored=kept)
        self.found.reports[file] = report
        if kept and report.passed:
            self.notify(f"{file}: {len(kept)} sensitive layers stay in float: {_some(kept)}")
        if not report.passed:
            if self.options.precision == "auto":
                self.notify(f"{file} does not pass the gate: {'; '.join(report.reasons)}")
                return draft
            tried = f", even with {len(kept)} layers back in float ({_some(kept)})" if kept else ""
            raise GateError(
                f"{MODEL_FILES[file][0]} does not pass the gate on {report.data}{tried}: {'; '.join(report.reasons)}; "
                "nothing was written (--no-gate writes it all the same)"
            )
        return replace(
            draft,
            files={**draft.files, file: path},
            temperatures={**draft.temperatures, file: temperatures[file]},
        )

    def _convert(self, file: str, floats: frozenset[str]) -> onnx.ModelProto:
        precision, placement = MODEL_FILES[file]
        clamp = input_range(self.preprocess.mean, self.preprocess.std)
        if precision == "fp16":
            return to_fp16(self.model, islands=floats | set(self._islands), input_range=clamp)
        assert self.found.calibration is not None
        ranges = self.found.calibration.of(self.options.method)
        narrow = placement == "inputs"
        quantised = quantise(
            self.model,
            ranges,
            placement=placement,
            kinds=KINDS,
            exclude=floats,
            fp16_scales=narrow,
            weight_bits=self.options.weight_bits,
            keep=self._islands if narrow else (),
        )
        return to_fp16(quantised, islands=self._islands, input_range=clamp) if narrow else quantised

    @cached_property
    def _islands(self) -> dict[str, float]:
        """Nodes that FP16 cannot hold; looked for once, on a few images."""
        found = overflow_islands(self.model, self._few_batches())
        if found:
            self._warn(f"{len(found)} nodes stay in FP32, their values are too large for FP16")
        return found

    def _few_batches(self) -> Iterator[NDArray[np.float32]]:
        few = replace(self.judge.images, count=min(self.judge.images.count, _FEW))
        return few.batches(self.preprocess, self._inside_batch)

    def _ranking(self, file: str) -> Sequence[str]:
        """Nodes by what they lose, most sensitive first."""
        if MODEL_FILES[file][0] == "fp16":
            # FP16 fails by range, not by rounding: what sums or exponentiates goes first.
            order = ("Softmax", "LayerNormalization", "ReduceMean", "MatMul", "Gemm", "Conv")
            ranked = sorted(
                (order.index(n.op_type), i) for i, n in enumerate(self.model.graph.node) if n.op_type in order
            )
            return [self.model.graph.node[i].name for _, i in ranked]
        return [e.node for e in self.layer_errors()]

    def layer_errors(self) -> list[LayerError]:
        """Error of every layer in INT8, largest first; none without a calibration."""
        if not self.found.errors and self.found.calibration is not None:
            self.found.errors = layer_errors(
                self.model,
                self.found.calibration.of(self.options.method),
                self._few_batches(),
                kinds=KINDS,
                weight_bits=self.options.weight_bits,
                threads=self.options.threads,
            )
        return self.found.errors

    # Choosing --------------------------------------------------------------------------------------------------

    def _fastest(self, draft: Draft) -> tuple[Draft, str]:
        """Time all that passed in turns, keep the fastest lower precision if it is worth it."""
        runtime = "auto" if self.options.target == "all" else self.options.target
        folder = self.folder / "timed"
        bundle = write_bundle(folder, draft.manifest, {f: p for f, p in draft.files.items() if f in MODEL_FILES})
        names = list(dict.fromkeys(a.precision for a in bundle.manifest.artefacts.values()))
        image = next(replace(self.judge.images, count=1).batches(self.preprocess, 1))
        runners = [
            make_runner(bundle, runtime=runtime, precision=n, device="cpu", threads=self.options.threads) for n in names
        ]
        calls: dict[str, Callable[[], object]] = {}
        for name, runner in zip(names, runners, strict=True):
            runner.__enter__()
            calls[name] = lambda runner=runner: runner.infer({bundle.manifest.input_name: image})  # type: ignore[misc]
        times = interleaved(calls, rounds=50, budget_s=60)
        described = runners[0].description
        for runner in runners:
            runner.__exit__(None, None, None)
        medians = {name: float(np.median(t)) for name, t in times.items()}
        self.found.timings = [(n, medians[n], float(np.percentile(t, 90))) for n, t in times.items()]
        best, verdict = fastest(times, judged=self.options.gate)
        figures = ", ".join(f"{n} {m:.2f} ms" for n, m in medians.items())
        self.notify(f"{described}, batch 1, medians of {len(times['fp32'])} taken in turns: {figures}; {verdict}")
        self.found.notes.append(f"{figures}; {verdict}")
        keep = {f for f in draft.files if MODEL_FILES.get(f, ("",))[0] in ("", "fp32", best)}
        return replace(draft, files={f: p for f, p in draft.files.items() if f in keep}), best

    def _gate_record(self, reports: dict[str, GateReport]) -> dict[str, Any] | None:
        if not self.options.precisions:
            return None
        if not self.options.gate:
            return {"skipped": "--no-gate"}
        if not reports:
            return None  # float32 was kept: there is nothing that could have passed
        return {
            "passed": all(r.passed for r in reports.values()),
            "fp32_islands": sorted(vars(self).get("_islands", ())),
            "models": {f: r.to_dict() for f, r in reports.items()},
        }


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
