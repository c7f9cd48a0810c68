"""``poster-edge export --format triton``: a finished bundle as a Triton Inference Server model repository."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from poster_edge.cli.export_engine import ENGINE_FORMATS, ENGINE_OPTIONS
from poster_edge.config import DEFAULT_MODEL
from poster_edge.export.triton_options import BACKENDS, KINDS, TritonOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Options of ``export`` that go with ``--format triton`` besides those of :func:`triton_options`.
_SHARED = {"format_", "model", "output", "name", "precision", "int8", "half", "threads", "force"}
_OWN = ("max_batch", "queue_delay", "triton_backend", "triton_kind", "triton_tensorrt", "instances", "ensemble")


def triton_options(command: _Command) -> _Command:
    """Add the options of ``--format triton``; the command gets them as one, ``triton``."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        own = {name: given.pop(name) for name in _OWN}
        return command(**given, triton=own)

    options = (
        click.option(
            "--max-batch",
            type=click.IntRange(1, 1024),
            help="Largest batch [default: 16 for triton, 8 for an engine].",
        ),
        click.option(
            "--queue-delay",
            type=click.IntRange(0),
            default=500,
            show_default=True,
            metavar="US",
            help="triton: longest wait for a fuller batch, in microseconds.",
        ),
        click.option(
            "--triton-backend",
            type=click.Choice(BACKENDS),
            default="onnxruntime",
            show_default=True,
            help="triton: what runs the network; tensorrt: a plan that you build on the server.",
        ),
        click.option(
            "--triton-kind",
            type=click.Choice(KINDS),
            help="triton: where the network runs [default: gpu for tensorrt, else cpu].",
        ),
        click.option("--triton-tensorrt", is_flag=True, help="triton: onnxruntime hands the graph to TensorRT."),
        click.option(
            "--instances", type=click.IntRange(1, 64), default=1, show_default=True, help="triton: copies of the model."
        ),
        click.option(
            "--ensemble/--no-ensemble",
            default=True,
            show_default=True,
            help="triton: add pre- and postprocessing, joined as NAME-faces.",
        ),
    )
    decorated: Any = wrapped
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def check_options(context: click.Context, form: str) -> None:
    """Refuse options that were given and would have no effect.

    Args:
        context: of the command.
        form: value of ``--format``.

    Raises:
        UsageError: names them.
    """
    from click.core import ParameterSource

    from poster_edge.errors import UsageError

    given = {p for p in context.params if context.get_parameter_source(p) is ParameterSource.COMMANDLINE}

    def flags(names: set[str]) -> str:
        return ", ".join(sorted(p.opts[0] for p in context.command.params if p.name in names))

    engine, own = {*ENGINE_OPTIONS, "max_batch"}, set(_OWN)
    if form == "triton":
        if useless := given - _SHARED - own:
            raise UsageError(f"--format triton takes no {flags(useless)}; see --help")
        return
    if useless := given & (own - engine):
        raise UsageError(f"--format triton is what goes with {flags(useless)}; see --help")
    if form not in ENGINE_FORMATS and (useless := given & engine):
        raise UsageError(f"--format {' or '.join(ENGINE_FORMATS)} is what goes with {flags(useless)}; see --help")


def export_triton(
    model: str | None,
    output: Path | None,
    own: dict[str, Any],
    *,
    name: str | None,
    precision: str | None,
    threads: int | None,
    force: bool,
) -> None:
    """Pack one of a bundle's models.

    Args:
        model: bundle or packaged model; None: the default one.
        output: target; None: ``runs/export/NAME-triton``.
        own: what :func:`triton_options` collected.
        name: of the model on the server; None: that of the bundle's folder.
        precision: which of the bundle's models; None or "auto": the one that it runs in.
        threads: of one operator on the CPU.
        force: replace an existing repository.

    Raises:
        BundleError: no such bundle, or no model of that precision in it.
        UsageError: options that do not go together; the target exists.
    """
    from poster_edge.cli import console
    from poster_edge.export.triton_repository import Served, write_repository
    from poster_edge.runtime.bundle import load_bundle

    options = _options(own, threads)
    bundle = load_bundle(model or DEFAULT_MODEL)
    manifest = bundle.manifest
    wanted = manifest.precision if precision in (None, "auto") else str(precision)
    options.check_precision(wanted)
    file = bundle.model_file(wanted, placement=options.placement)
    if manifest.artefacts[file].placement not in ("", options.placement):
        console.message(f"{file} is the form of INT8 for another runtime; export one for --target all to have both")
    served = Served(
        # Not the network's: a server with two bundles of one network has to tell them apart.
        name=name or bundle.folder.absolute().name,
        graph=bundle.read(file),
        input_name=manifest.input_name,
        output_name=manifest.output_name,
        classes=manifest.classes,
        preprocess=manifest.preprocess,
        temperature=bundle.temperature(file),
        precision=wanted,
    )
    folder = output or Path("runs/export") / f"{served.name}-triton"
    for note in write_repository(folder, served, options, force=force):
        console.message(f"{note}: see {folder / 'README.md'}")
    console.message(
        f"{folder}: {served.name} {wanted} for Triton's {options.backend} back end, checked against its ONNX file "
        f"(no server has run it); start one: tritonserver --model-repository={folder}"
    )


def _options(own: dict[str, Any], threads: int | None) -> TritonOptions:
    backend = own["triton_backend"]
    options = TritonOptions(
        max_batch=own["max_batch"] or 16,
        queue_delay_us=own["queue_delay"],
        kind=own["triton_kind"] or ("gpu" if backend == "tensorrt" or own["triton_tensorrt"] else "cpu"),
        instances=own["instances"],
        backend=backend,
        accelerator=own["triton_tensorrt"],
        ensemble=own["ensemble"],
    )
    return replace(options, threads=threads)
