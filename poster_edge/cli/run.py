"""``poster-edge run``: faces and expressions from pictures, videos, cameras and pipes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poster_edge.cli.options import FiniteRange, NamedPath, detector_options, given_of, runtime_options
from poster_edge.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from poster_edge.pipeline.frame import Source
    from poster_edge.pipeline.report import Tally
    from poster_edge.pipeline.runner import Sink


@click.command(name="run")
@click.option(
    "-s",
    "--source",
    metavar="SRC",
    help="Image, folder, glob, video, 0, /dev/video0, v4l2://…, rtsp://…, csi://0, or - (JPEG frames on stdin).",
)
@click.option("--camera", type=click.IntRange(0), metavar="N", help="Camera number; short for --source N.")
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="A bundle's folder, or the name of a bundled one."
)
@runtime_options
@detector_options
@click.option("--save", type=NamedPath(), help="Annotated image or video, or a folder for them.")
@click.option("--jsonl", metavar="PATH|-", help="One JSON line per frame, to a file or to stdout.")
@click.option("--show/--headless", default=False, help="Show the pictures in a window [default: headless].")
@click.option("--blur", is_flag=True, help="Blur the faces in what is saved or shown.")
@click.option(
    "--smooth",
    type=FiniteRange(0),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Average each face's expression over the last SECONDS of a video or camera; 0: each frame by itself.",
)
@click.option(
    "--detect-every",
    type=FiniteRange(0),
    default=0.0,
    metavar="SECONDS",
    help="Search the whole picture of a video or camera only so often, in between only around known faces: faster, "
    "and a new face is seen later [default: 0, every picture].",
)
@click.option(
    "--min-probability",
    type=FiniteRange(0, 1),
    default=0.0,
    metavar="P",
    help="Call an expression uncertain that is less probable [default: 0, always name one].",
)
@click.option("--max-frames", type=click.IntRange(1), metavar="N", help="Stop after N frames.")
@click.option("--vid-stride", type=click.IntRange(1), default=1, show_default=True, help="Every N-th frame of a video.")
def command(
    *,
    source: str | None,
    camera: int | None,
    model: str,
    detector: str,
    detector_model: Path | None,
    conf: float,
    save: Path | None,
    jsonl: str | None,
    show: bool,
    blur: bool,
    smooth: float,
    min_probability: float,
    detect_every: float,
    max_frames: int | None,
    vid_stride: int,
    **asked: Any,
) -> None:
    """Find faces in SRC and name their expressions.

    Images print one line each, videos and cameras only a summary; --jsonl gives everything. Nothing
    is stored unless --save or --jsonl asks for it. An input that cannot be read is named, the rest
    goes on, and the exit code is 1. A camera runs until Ctrl-C.
    """
    spec = _spec(source, camera)
    _check_outputs(save, jsonl)
    if blur and not (save or show):
        raise click.UsageError("--blur changes what is saved or shown: add --save PATH or --show")

    if blur and detect_every:
        raise click.UsageError(
            "--blur would leave a new face unblurred until the whole picture is searched: leave out --detect-every"
        )
    if detect_every and detector == "none":
        raise click.UsageError("--detect-every would have no effect: --detector none does not search")

    from poster_edge.cli import console
    from poster_edge.pipeline.quiet import natives_silenced

    with natives_silenced():
        from poster_edge.pipeline.report import Tally
        from poster_edge.pipeline.runner import run
        from poster_edge.pipeline.sources import open_source
        from poster_edge.pipeline.stages import Pipeline, painter
        from poster_edge.pipeline.steady import Steadier
        from poster_edge.runtime.checkpoint_bundle import load_bundle_or_checkpoint
        from poster_edge.runtime.classifier import Classifier
        from poster_edge.vision.detect import choose_detector
        from poster_edge.vision.follow import Follower

        tally = Tally()

        def report(text: str) -> None:
            tally.problems += 1
            console.message(f"error: {text}")

        with ExitStack() as stack:
            finder = choose_detector(detector, detector_model, conf=conf, notify=console.message)
            # Before the model, whose engine can take minutes to build: a camera that is missing is told at once.
            frames = open_source(spec, report=report, notify=console.message, vid_stride=vid_stride)
            _check_moving(frames, source)
            bundle = load_bundle_or_checkpoint(model, runtime=asked["runtime"])
            if not bundle.manifest.has_trained_weights:
                console.message(f"{bundle.folder} has random weights: its labels mean nothing, only its speed does")
            classifier = stack.enter_context(
                Classifier(
                    bundle,
                    notify=console.message,
                    progress=stack.enter_context(console.BuildBar()),
                    **asked,
                )
            )
            sinks = _sinks(frames, save=save, jsonl=jsonl, show=show)
            advance = stack.enter_context(_Progress(frames, max_frames))
            pipeline = Pipeline(
                finder,
                classifier,
                painter=painter(blur=blur) if save or show else None,
                steadier=Steadier(smooth, at_least=min_probability),
                follower=Follower(finder, detect_every) if detect_every else None,
                at_least=min_probability,
            )
            tally.restart()
            try:
                whole = run(frames, pipeline, sinks, tally=tally, max_frames=max_frames, advance=advance.step)
            finally:
                advance.stop()
                if tally.frames:
                    what = f"{bundle.manifest.model} {classifier.precision} on {classifier.runtime}"
                    _summary(tally, f"{finder.name} + {what}")
    if not whole:
        raise KeyboardInterrupt
    if tally.problems:
        click.get_current_context().exit(1)


def _spec(source: str | None, camera: int | None) -> str:
    if (source is None) == (camera is None):
        raise click.UsageError("give one of --source SRC and --camera N")
    if source == "":
        raise click.UsageError("--source is empty; expected an image, a folder, a video, a camera number or -")
    return source if source is not None else str(camera)


def _check_outputs(save: Path | None, jsonl: str | None) -> None:
    """Refuse names that are none, and one name for both."""
    if jsonl == "":
        raise click.UsageError("--jsonl is empty; expected a file's name or -")
    if save is not None and jsonl not in (None, "-") and save.absolute() == Path(str(jsonl)).absolute():
        raise click.UsageError(f"--save and --jsonl are both {save}; each needs a name of its own")


def _check_moving(frames: Source, source: str | None) -> None:
    """Refuse options for videos where there is none."""
    useless = "" if frames.moving else given_of(click.get_current_context(), ("smooth", "detect_every", "vid_stride"))
    if useless:
        raise click.UsageError(f"{useless} would have no effect: there is no video in {source}, only pictures")


def _sinks(frames: Source, *, save: Path | None, jsonl: str | None, show: bool) -> list[Sink]:
    """What takes the results; the cheap checks of each come before anything is written."""
    from poster_edge.pipeline.jsonl import JsonLines
    from poster_edge.pipeline.report import describe
    from poster_edge.pipeline.runner import Lines

    sinks: list[Sink] = []
    if show:
        from poster_edge.pipeline.show import Window

        sinks.append(Window())
    if save is not None:
        from poster_edge.pipeline.save import Saver

        sinks.append(Saver(save, inputs=frames.inputs, many=len(frames.inputs) > 1))
    sinks.append(
        JsonLines(jsonl, inputs=frames.inputs) if jsonl else Lines(lambda result: click.echo(describe(result)))
    )
    return sinks


def _summary(tally: Tally, what: str) -> None:
    from poster_edge.cli import console

    columns = tally.latency()
    widths = [max(len(stage), 7) for stage, _, _ in columns]
    rows = [[stage for stage, _, _ in columns], *([f"{c[i]:.1f}" for c in columns] for i in (1, 2))]
    console.message(f"{tally.headline()}\n{what}")
    for name, row in zip(("ms", "median", "p90"), rows, strict=True):
        console.message(f"{name:6}" + "".join(f"  {cell:>{w}}" for cell, w in zip(row, widths, strict=True)))


class _Progress:
    """A bar on the terminal for videos and long lists; nothing for a camera, a pipe or one image."""

    def __init__(self, frames: Source, max_frames: int | None) -> None:
        from poster_edge.cli import console

        self._bar: Any = None
        if frames.live or not console.stderr.is_terminal:
            return
        total = frames.total()
        total = min(total, max_frames) if total and max_frames else total or max_frames
        if total is None or total > 1:
            self._bar = console.progress_bar()
            self._task = self._bar.add_task("frames", total=total)

    def __enter__(self) -> _Progress:
        if self._bar:
            self._bar.start()
        return self

    def step(self) -> None:
        """One frame more."""
        if self._bar:
            self._bar.advance(self._task)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()

    def __exit__(self, *_: object) -> None:
        self.stop()
