"""``poster-edge profile``: where the time of a frame goes, and how far each layer is from its bound."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poster_edge.cli.options import FiniteRange, NamedPath, detector_options, given_of, runtime_options
from poster_edge.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from poster_edge.bench.profiling import Profile

#: Names that ``--target`` takes; :mod:`poster_edge.bench.devices` has the figures, and a test compares.
TARGETS = ("orin-nano", "orin-nx", "agx-orin", "thor", "rtx3060", "rtx4090", "h100", "h200")


@click.command(name="profile")
@click.option("-s", "--source", metavar="SRC", help="As in run: a photo, a clip, a camera [default: a packaged photo].")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="A bundle's folder, or a bundled one's name.")
@runtime_options
@detector_options
@click.option("--frames", type=click.IntRange(1), default=50, show_default=True, help="Frames that are timed.")
@click.option("--layers", is_flag=True, help="Time every layer of the model and compare it with the roofline.")
@click.option(
    "--batch", type=click.IntRange(1, 4096), default=1, show_default=True, help="Faces, of --layers, --target."
)
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="Inferences that --layers times.")
@click.option(
    "--target", "targets", type=click.Choice(TARGETS), multiple=True,
    help="Also give the least times on that device; may be repeated.",
)  # fmt: skip
@click.option(
    "--target-precision", type=click.Choice(["fp32", "fp16", "int8"]),
    help="Arithmetic and storage there [default: the model's own].",
)  # fmt: skip
@click.option(
    "--top", type=click.IntRange(1), default=15, show_default=True, help="Layers in the table, slowest first."
)
@click.option("--energy", is_flag=True, help="Also measure joules per face; exit code 4 where no meter can be read.")
@click.option("--idle", type=FiniteRange(0.5), default=3.0, show_default=True, help="Seconds of rest before --energy.")
@click.option("--json", "json_path", metavar="PATH|-", help="Write everything as JSON, to a file or to stdout.")
@click.option("--html", "html_path", type=NamedPath(), help="Write a page with the plots.")
def command(
    *, source: str | None, model: str, top: int, json_path: str | None, html_path: Path | None, **asked: Any
) -> None:
    """Time every stage of a frame of SRC, from reading it to drawing on it.

    --layers adds the model's layers by the runtime's own profiler, each with its operations, bytes and share of
    the roofline; --target the least times on other devices, which are bounds and not predictions. Layers and
    targets need the package onnx. Stages are timed one after the other: on a GPU, run overlaps them.
    """
    from poster_edge.cli import console, profile_terminal
    from poster_edge.files import check_writable, write_atomic
    from poster_edge.pipeline.quiet import natives_silenced

    _check_needed(click.get_current_context(), asked, printed=json_path != "-")
    if json_path == "":
        raise click.UsageError("--json is empty; expected a file's name or -")
    check_writable(*(Path(p) for p in (json_path, html_path) if p is not None and p != "-"))
    with natives_silenced():
        found = _profile(source=source, model=model, **asked)
    if html_path is not None:
        from poster_edge.cli.profile_html import write_page

        console.message(f"page: {write_page(html_path, found)}")
    if json_path == "-":
        click.echo(found.to_json(), nl=False)
        return
    if json_path:
        write_atomic(Path(json_path), found.to_json())
    profile_terminal.show(found, top=top)


def _check_needed(context: click.Context, asked: dict[str, Any], *, printed: bool) -> None:
    """Refuse options that were given and would have no effect."""
    layers, targets = asked["layers"], asked["targets"]
    for names, there, needed in (
        (("runs",), layers, "--layers"),
        (("top",), layers and printed, "--layers and a table (no --json -)"),
        (("batch",), layers or targets, "--layers or --target NAME"),
        (("target_precision",), targets, "--target NAME"),
        (("idle",), asked["energy"], "--energy"),
        (
            ("plugin",),
            not (layers or targets),
            "the stages, not for --layers or --target: its node is no ONNX operator",
        ),
    ):
        if not there and (useless := given_of(context, names)):
            raise click.UsageError(f"{useless} is for {needed}")


def _profile(
    *,
    source: str | None,
    model: str,
    detector: str,
    detector_model: Path | None,
    conf: float,
    frames: int,
    layers: bool,
    batch: int,
    runs: int,
    targets: tuple[str, ...],
    target_precision: str | None,
    energy: bool,
    idle: float,
    **runtime: Any,
) -> Profile:
    """Everything that was asked for, cheap checks first."""
    from poster_edge.bench.energy_meters import find_rails, nvml_index
    from poster_edge.bench.environment import read_environment
    from poster_edge.bench.noise import Watch
    from poster_edge.bench.profiling import Profile
    from poster_edge.cli import console
    from poster_edge.cli.profile_model import Model, examine
    from poster_edge.optional import require
    from poster_edge.runtime.checkpoint_bundle import load_bundle_or_checkpoint
    from poster_edge.vision.detect import choose_detector

    gpu = nvml_index(runtime["device"], os.environ.get("CUDA_VISIBLE_DEVICES"))
    if layers and runtime["cuda_graph"]:
        raise click.UsageError("--layers: a CUDA graph is launched as a whole; leave --cuda-graph out")
    if layers and runtime["compiled"]:
        raise click.UsageError("--layers: what torch.compile has translated has no layers; leave --compile out")
    rails = find_rails(gpu=gpu, notify=console.message) if energy else []
    if layers or targets:
        require("onnx", purpose="count the operations of a model's layers")
    bundle = load_bundle_or_checkpoint(model, runtime=runtime["runtime"])
    finder = choose_detector(detector, detector_model, conf=conf, notify=console.message)
    opened = Model(bundle, runtime)
    watch = Watch([os.getpid()])
    watch.start()
    with console.progress_bar() as bar:
        task = bar.add_task("frames", total=frames + WARMUP)
        stages, report = _stages(
            source,
            finder,
            opened,
            frames=frames,
            rails=rails,
            idle=idle,
            advance=lambda: bar.advance(task),
            watch=watch,
        )
        bar.update(task, description="layers", total=None)
        rest = examine(opened, layers=layers, batch=batch, runs=runs, targets=targets, precision=target_precision)
    return Profile(read_environment(), opened.facts(), stages, energy=report, noise=watch.stop(), **rest)


#: Frames before the timed ones.
WARMUP = 5


def _stages(
    source: str | None,
    finder: Any,
    opened: Any,
    *,
    frames: int,
    rails: Any,
    idle: float,
    advance: Callable[[], None],
    watch: Any,
) -> tuple[Any, Any]:
    """Stages of the frames, and their energy where there are rails."""
    from poster_edge.bench.energy import Recording, idle_watts
    from poster_edge.bench.profiling import profile_stages
    from poster_edge.cli import console
    from poster_edge.pipeline.sources import open_source
    from poster_edge.pipeline.stages import Pipeline, painter
    from poster_edge.vision.samples import SAMPLES

    spec = source if source is not None else str(SAMPLES / "astronaut.jpg")
    rest = idle_watts(rails, seconds=idle) if rails else {}
    with opened.classifier() as classifier:
        classifier.time_copies()
        recording, running = Recording(rails), ExitStack()

        def begin() -> None:
            if rails:
                running.enter_context(recording)

        def step() -> None:
            advance()
            # The look at the machine takes some milliseconds of work, which no meter should see.
            if not rails:
                watch.round_done()

        try:
            found = profile_stages(
                lambda: open_source(spec, report=console.message, notify=console.message),
                Pipeline(finder, classifier, painter=painter(), detailed=True),
                source=Path(spec).name,
                what=f"{finder.name} + {opened.bundle.manifest.model} {classifier.precision} on {classifier.runtime}",
                frames=frames,
                warmup=WARMUP,
                begin=begin,
                advance=step,
            )
        finally:
            running.close()
        watch.round_done()
    return found, recording.report(faces=found.faces, idle=rest) if rails else None
