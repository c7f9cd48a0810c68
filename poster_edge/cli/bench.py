"""``poster-edge bench``: latency, memory and accuracy beside the PyTorch baseline, in one run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from poster_edge.cli.options import MOST_THREADS, FiniteRange, NamedPath, given_of
from poster_edge.config import DEFAULT_MODEL
from poster_edge.labels import LABEL_SETS

#: Seconds of timed calls of each candidate; docs/bench.md says when more are wanted.
_DURATION_S = 20.0


class _Names(click.ParamType):
    """Names, or whole numbers, separated by commas; the option may be repeated as well."""

    name = "A,B,…"

    def __init__(self, kind: type[str] | type[int] = str, *, most: int = 1 << 16) -> None:
        self._kind, self._most = kind, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str | int, ...]:
        """Split the text."""
        if isinstance(value, tuple):
            return value
        parts = [p.strip() for p in str(value).split(",") if p.strip()]
        if self._kind is str:
            return tuple(parts)
        if not parts or not all(p.isdecimal() and 0 < int(p) <= self._most for p in parts):
            self.fail(f"'{value}': expected whole numbers from 1 to {self._most}, separated by commas", param, ctx)
        return tuple(int(p) for p in parts)


@click.command(name="bench")
@click.option(
    "--model",
    "models",
    multiple=True,
    default=(DEFAULT_MODEL,),
    show_default=True,
    metavar="BUNDLE|NAME",
    help="A bundle's folder, a packaged model, or a checkpoint for PyTorch alone; may be repeated.",
)
@click.option(
    "--runtime",
    "runtimes",
    type=_Names(),
    default="",
    help="onnxruntime, openvino, tensorrt, tensorrt-rtx, torch, torch-compile [default: those that can serve here].",
)
@click.option("--precision", "precisions", type=_Names(), default="", help="fp32, fp16, int8 [default: the bundle's].")
@click.option("--batch", "batches", type=_Names(int), default="1", show_default=True, help="Images per call.")
@click.option(
    "--threads", type=_Names(int, most=MOST_THREADS), help="Threads of one call [default: the runtime's choice]."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--baseline",
    type=click.Choice(["auto", "torch", "onnxruntime"]),
    default="auto",
    show_default=True,
    help="What the others are compared with; auto: PyTorch where the bundle has weights, else onnxruntime fp32.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Weights (.safetensors) for PyTorch, where the bundle has none.",
)
@click.option(
    "--plugin",
    type=NamedPath(),
    help="Library of 'kernels plugin': each TensorRT is timed with it too, in its precision.",
)
@click.option(
    "--duration",
    type=FiniteRange(0.1),
    default=_DURATION_S,
    show_default=True,
    metavar="S",
    help="Seconds of timed calls of each candidate; 60 for a record.",
)
@click.option("--data", type=NamedPath(), help="Labelled faces: accuracy next to every speed.")
@click.option("--dataset", type=click.Choice(list(LABEL_SETS)), help="Read --data as this data set.")
@click.option("--faces", type=click.IntRange(1), metavar="N", help="Judge N of them, the same for all [default: all].")
@click.option("--source", metavar="SRC", help="Image, folder or video: also time a decoded frame to its result.")
@click.option(
    "--detector",
    type=click.Choice(["auto", "yunet", "haar", "none"]),
    default="auto",
    show_default=True,
    help="Finds the faces in --source.",
)
@click.option("--detector-model", type=NamedPath(), help="YuNet's ONNX file.")
@click.option("--json", "json_path", metavar="PATH|-", help="Write the record as JSON; '-' for stdout.")
@click.option("--csv", "csv_path", metavar="PATH|-", help="Write the rows as CSV; '-' for stdout.")
@click.option(
    "--plot",
    "plots",
    multiple=True,
    type=NamedPath(),
    metavar="PNG|HTML",
    help="Latency against accuracy, size as area; needs --data. May be repeated.",
)
@click.option(
    "--energy", is_flag=True, help="Also measure joules per face, 10 s each; exit code 4 where no meter can be read."
)
@click.option("--allow-noisy", is_flag=True, help="Exit with 0 even when the run was disturbed.")
def command(
    *,
    models: tuple[str, ...],
    runtimes: tuple[str, ...],
    precisions: tuple[str, ...],
    batches: tuple[int, ...],
    threads: tuple[int, ...] | None,
    device: str,
    baseline: str,
    checkpoint: Path | None,
    plugin: Path | None,
    duration: float,
    data: Path | None,
    dataset: str | None,
    faces: int | None,
    source: str | None,
    detector: str,
    detector_model: Path | None,
    json_path: str | None,
    csv_path: str | None,
    plots: tuple[Path, ...],
    energy: bool,
    allow_noisy: bool,
) -> None:
    """Compare runtimes and precisions with eager PyTorch, in turns in one run.

    Each candidate has a process of its own; the processes take turns, A B A B, so that a slow moment
    of the machine slows all of them. A run that was disturbed is marked NOISY and exits with 1, its
    figures written all the same. What is asked for by name is served or is an error (exit 4).
    """
    from poster_edge.bench.candidates import Wanted
    from poster_edge.bench.energy_meters import find_rails, nvml_index
    from poster_edge.bench.work import Frames
    from poster_edge.cli import console
    from poster_edge.cli.bench_report import check_outputs, deliver
    from poster_edge.cli.bench_run import run
    from poster_edge.export.engine_plugin import open_plugin
    from poster_edge.runtime.checkpoint_bundle import load_bundle_or_checkpoint

    _check_needed(click.get_current_context(), data, source)
    check_outputs(plots, json_path=json_path, csv_path=csv_path, labelled=data is not None)
    gpu = nvml_index(device, os.environ.get("CUDA_VISIBLE_DEVICES"))
    rails = find_rails(gpu=gpu, notify=console.message) if energy else []
    wanted = Wanted(
        runtimes=runtimes,
        precisions=precisions,
        batches=tuple(dict.fromkeys(batches)),
        threads=tuple(dict.fromkeys(threads)) if threads else (None,),
        device=device,
        baseline=baseline,
        checkpoint=checkpoint,
        plugin=open_plugin(plugin) if plugin else None,
        frames=source is not None,
    )
    frames = source and Frames(source, detector=detector, detector_model=str(detector_model or ""))
    bundles = [(model, load_bundle_or_checkpoint(model, runtime="torch")) for model in dict.fromkeys(models)]
    record = run(
        bundles,
        wanted,
        duration_s=duration,
        frames=frames or None,
        data=data,
        dataset=dataset,
        count=faces,
        rails=rails,
    )
    deliver(record, json_path=json_path, csv_path=csv_path, plots=plots)
    if record.reasons and not allow_noisy:
        click.get_current_context().exit(1)


def _check_needed(context: click.Context, data: Path | None, source: str | None) -> None:
    """Refuse options that were given and would have no effect."""
    if data is None and (useless := given_of(context, ("dataset", "faces"))):
        raise click.UsageError(f"{useless} is about labelled faces: add --data DATA")
    if source is None and (useless := given_of(context, ("detector", "detector_model"))):
        raise click.UsageError(f"{useless} is about frames: add --source SRC")
