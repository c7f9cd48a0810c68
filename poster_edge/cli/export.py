"""``poster-edge export``: a model to ONNX in the precision asked for, judged, packed as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poster_edge.cli.export_effects import check_effects, check_name, lowering_asked
from poster_edge.cli.export_engine import (
    ENGINE_FORMATS,
    add_engine,
    bundle_for_plugin,
    engine_options,
    finished_bundle,
    open_engine,
)
from poster_edge.cli.export_triton import check_options, export_triton, triton_options
from poster_edge.cli.options import MOST_THREADS, NamedPath, given_of
from poster_edge.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from poster_edge.calib.cache import Calibration
    from poster_edge.cli.export_draft import Draft
    from poster_edge.cli.export_options import Options
    from poster_edge.runtime.bundle import Bundle


@click.command(name="export")
@click.option("--model", help=f"Name of a model, or a bundle's folder [default: {DEFAULT_MODEL}].")
@click.option("--checkpoint", type=NamedPath(), help=".safetensors of 'train' or 'convert'.")
@click.option("--random-weights", is_flag=True, help="Untrained weights, to measure speed: its labels mean nothing.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["onnx", *ENGINE_FORMATS, "triton"]),
    default="onnx",
    show_default=True,
    help="onnx: a bundle; tensorrt, tensorrt-rtx: one with an engine; triton: a finished bundle (--model) as a "
    "model repository of Triton Inference Server.",
)
@click.option("-o", "--output", type=NamedPath(), help="Bundle folder [default: runs/export/NAME].")
@click.option(
    "--name",
    help="Name of the bundle's model in messages [default: the configuration's; on a Triton server: the folder's].",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "auto"]),
    help="What the bundle runs in [default: fp32]; auto: the fastest here that passes the gate.",
)
@click.option("--int8", is_flag=True, help="Short for --precision int8.")
@click.option("--half", is_flag=True, help="Short for --precision fp16; with --int8: both, INT8 runs.")
@click.option(
    "--target",
    type=click.Choice(["all", "onnxruntime", "openvino", "tensorrt"]),
    default="all",
    show_default=True,
    help="Whose form of INT8 to write, and what --precision auto times.",
)
@click.option(
    "--calib",
    type=NamedPath(),
    help="Faces, photos or a video that INT8 ranges come from; without --int8 they are kept for later.",
)
@click.option(
    "--calib-method",
    type=click.Choice(["minmax", "entropy", "percentile", "mse"]),
    default="mse",
    show_default=True,
    help="How INT8 ranges are chosen.",
)
@click.option(
    "--calib-images", type=click.IntRange(1), default=512, show_default=True, help="How many of --calib to use."
)
@click.option(
    "--weight-bits",
    type=click.Choice(["auto", "8", "7"]),
    default="auto",
    show_default=True,
    help="Of INT8's weights; 7 is for x86 CPUs without VNNI. auto: 8, or 7 for --precision auto on such a CPU.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the choice of calibration images."
)
@click.option("--gate/--no-gate", default=True, show_default=True, help="Refuse a precision that costs accuracy.")
@click.option("--data", type=NamedPath(), help="Labelled faces that judge [default: packaged photos].")
@click.option("--judge-images", type=click.IntRange(1), default=4096, show_default=True, help="At most so many judge.")
@click.option(
    "--compare",
    "images",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="At most so many faces to compare with PyTorch on.",
)
@click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), help="Threads of one operator [default: the runtime's choice]."
)
@click.option("--fused-op", is_flag=True, help="Also write a graph with one node for each cross-fusion depth.")
@click.option("--report", type=NamedPath(), help="Write an HTML page about the export to this folder.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@engine_options
@triton_options
def command(
    *,
    format_: str,
    model: str | None,
    checkpoint: Path | None,
    random_weights: bool,
    output: Path | None,
    name: str | None,
    precision: str | None,
    int8: bool,
    half: bool,
    target: str,
    calib: Path | None,
    calib_method: str,
    calib_images: int,
    weight_bits: str,
    seed: int,
    gate: bool,
    data: Path | None,
    judge_images: int,
    images: int,
    threads: int | None,
    fused_op: bool,
    report: Path | None,
    force: bool,
    triton: dict[str, Any],
    engine: dict[str, Any],
) -> None:
    """Export a model to ONNX and pack it with its manifest and model card.

    The graph has a dynamic batch, no BatchNorm and no unused weights. It is checked by ONNX and
    compared with PyTorch. FP16 and INT8 are written into the graph and judged against FP32 by the
    runtime that will run them; where one costs too much, the layers that suffer most go back to
    float. What does not pass is not written, and the exit code is 3.
    """
    from poster_edge.cli import console
    from poster_edge.cli.export_draft import renamed, reopen_whole
    from poster_edge.errors import UsageError
    from poster_edge.files import check_exists, check_writable, scratch_folder
    from poster_edge.optional import require

    context = click.get_current_context()
    check_options(context, format_)
    check_name(name)
    main, also = _precisions(precision, int8=int8, half=half)
    if format_ == "triton":
        require("onnx", purpose="write a Triton repository")
        asked = main if precision or int8 or half else None
        export_triton(model, output, triton, name=name, precision=asked, threads=threads, force=force)
        return
    if model is not None and checkpoint is not None:
        raise UsageError("export takes --model or --checkpoint, not both")
    if random_weights and (checkpoint is not None or model is None):
        raise UsageError("--random-weights goes with --model")
    if report is not None and main == "fp32":
        raise UsageError("--report is about FP16 and INT8: add --half, --int8 or --precision auto")
    finished = None
    if format_ in ENGINE_FORMATS:
        plan, target = open_engine(format_, engine, precision=main, target=target, max_batch=triton["max_batch"])
        asked = main if precision or int8 or half else None
        exported = checkpoint is not None or random_weights or lowering_asked(context)
        if plan[1].plugin is not None:
            finished, main = bundle_for_plugin(None if exported else model, asked, plan[1])
        elif not exported:
            finished, main = finished_bundle(model or DEFAULT_MODEL, asked)
    if finished is None:
        require("onnx", purpose="export a model")
    from poster_edge.cli.export_options import Options
    from poster_edge.runtime.bundle import check_target, write_bundle

    options = Options(
        precision=main,
        also=also,
        target=target,
        calib=calib,
        method=calib_method,
        images=calib_images,
        seed=seed,
        gate=gate,
        data=data,
        judged=judge_images,
        threads=threads,
        weight_bits=_weight_bits(weight_bits, main),
        fused_op=fused_op,
    )
    if finished is None:
        check_effects(context, options, format_)
        for path in (p for p in (calib, data) if p is not None):
            check_exists(path)
    model = model or (None if checkpoint else DEFAULT_MODEL)
    base = name or (Path(model).name if model else checkpoint.stem if checkpoint else "model")
    parts = [base, *([] if main == "fp32" else [main]), *([] if format_ == "onnx" else [format_])]
    folder = output or Path("runs/export") / "-".join(parts)
    check_target(folder, force=force)
    if report is not None:
        check_writable(report / "index.html")
    with scratch_folder() as scratch:
        if finished is not None:
            draft = renamed(reopen_whole(finished, scratch), name)
        else:
            draft, calibration = _source(
                model, checkpoint, options, scratch, name=name, random_weights=random_weights, images=images
            )
            if options.precisions or calib is not None:
                draft = _lower(draft, calibration, options, scratch, report)
        if format_ in ENGINE_FORMATS:
            draft = add_engine(draft, *plan, main, scratch)
        bundle = write_bundle(folder, draft.manifest, draft.files, temperatures=draft.temperatures, force=force)
    with_plugin = f"--runtime {format_} --plugin {engine['plugin']} " if engine["plugin"] else ""
    console.message(_done(bundle, with_plugin))


def _precisions(precision: str | None, *, int8: bool, half: bool) -> tuple[str, tuple[str, ...]]:
    """The precision that runs, and those that are made besides.

    Raises:
        UsageError: the flags contradict each other.
    """
    from poster_edge.errors import UsageError

    short = "int8" if int8 else "fp16" if half else None
    if precision is not None and short is not None and precision != short:
        raise UsageError(f"--precision {precision} contradicts --{'int8' if int8 else 'half'}")
    return precision or short or "fp32", ("fp16",) if int8 and half else ()


def _weight_bits(asked: str, precision: str) -> int:
    """What --weight-bits stands for: only what is timed and kept here is fitted to this CPU."""
    from poster_edge.runtime.int8_sums import sums_int8_exactly

    if asked != "auto":
        return int(asked)
    return 7 if precision == "auto" and not sums_int8_exactly() else 8


def _source(
    model: str | None,
    checkpoint: Path | None,
    options: Options,
    scratch: Path,
    *,
    name: str | None,
    random_weights: bool,
    images: int,
) -> tuple[Draft, Calibration | None]:
    """The float32 part: of a finished bundle where that is enough, else exported from PyTorch."""
    from poster_edge.cli import console
    from poster_edge.cli.export_draft import renamed, reopen
    from poster_edge.errors import UsageError
    from poster_edge.optional import require
    from poster_edge.runtime.bundle import load_bundle, zoo_names

    is_folder = model is not None and Path(model).is_dir()
    if is_folder and options.fused_op:
        raise UsageError("--fused-op needs PyTorch weights: pass --checkpoint, or the name of a packaged model")
    packed = options.precisions and model in zoo_names() and not options.fused_op
    if model is not None and not random_weights and (is_folder or packed):
        bundle = load_bundle(model)
        before = f"starting from {bundle.manifest.model}, exported and compared with PyTorch before"
        unused = ("images",) if options.precisions or options.calib else ("images", "data")
        if useless := given_of(click.get_current_context(), unused):
            raise UsageError(f"{before}: {useless} would have no effect")
        console.message(before)
        draft, calibration = reopen(bundle, scratch)
        return renamed(draft, name), calibration
    for package in ("onnxscript", "torch", "safetensors"):
        require(package, purpose="export a model")
    from poster_edge.cli.export_steps import comparison_inputs, load_source, trace

    network, info = load_source(model, checkpoint, random_weights=random_weights)
    batches = comparison_inputs(info.preprocess, options.data, images)
    draft, parity = trace(network, info, batches, scratch, name=name or info.model, fused_op=options.fused_op)
    console.message(f"compared with PyTorch: {parity}")
    return draft, None


def _lower(
    draft: Draft, calibration: Calibration | None, options: Options, scratch: Path, report: Path | None
) -> Draft:
    from poster_edge.cli import console
    from poster_edge.cli.export_draft import append_to_card
    from poster_edge.cli.export_precision import Lowering
    from poster_edge.cli.export_summary import card_section, report_data

    work = Lowering(draft, calibration, options, scratch, console.message)
    try:
        lowered = work.run()
    finally:
        # A page about a gate that failed is worth more than one about a gate that passed.
        if report is not None and work.found.reports:
            from poster_edge.cli.export_report import write_report

            console.message(f"report: {write_report(report, report_data(work))}")
    for outcome in work.found.reports.values():
        if outcome.file in lowered.files:
            console.message(f"{outcome.file}: {outcome} on {outcome.data}, {outcome.runtime}")
    if options.precisions and not options.gate:
        console.message("no gate was run (--no-gate); the manifest says so")
    append_to_card(lowered, card_section(lowered, work.found))
    return lowered


def _done(bundle: Bundle, options: str) -> str:
    size = sum(a.bytes for a in bundle.manifest.artefacts.values())
    return (
        f"{bundle.folder}: {bundle.manifest.model}, runs in {bundle.manifest.precision}, {size / 1e6:.1f} MB; try it: "
        f"poster-edge run --model {bundle.folder} {options}--source PHOTO"
    )
