"""Options of ``poster-edge export`` that would have no effect are refused, before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from poster_edge.cli.options import given_of

if TYPE_CHECKING:
    from poster_edge.cli.export_options import Options

#: Options about how FP16 and INT8 are made and judged, which a model that is finished takes no notice of.
_LOWERING = (
    "calib",
    "calib_method",
    "calib_images",
    "weight_bits",
    "seed",
    "gate",
    "data",
    "judge_images",
    "images",
    "threads",
    "report",
    "fused_op",
)


def lowering_asked(context: click.Context) -> bool:
    """Whether options were given that a finished model would leave without an effect: it is then made anew."""
    return bool(given_of(context, _LOWERING))


def check_effects(context: click.Context, options: Options, form: str) -> None:
    """Refuse options that were given and would have no effect.

    Args:
        context: of the command.
        options: what was asked for.
        form: value of ``--format``.

    Raises:
        UsageError: names them.
    """
    from poster_edge.errors import UsageError

    if options.precision == "auto" and options.target == "tensorrt":
        raise UsageError(
            "--precision auto times onnxruntime or OpenVINO on this CPU: --target onnxruntime, openvino or all; "
            "for TensorRT make --int8 --half and compare them on the GPU with poster-edge bench"
        )
    calib, lower = options.calib is not None, bool(options.precisions)
    for names, there, needed in (
        (("calib_method", "weight_bits"), "int8" in options.precisions or calib, "--int8, --precision auto or --calib"),
        (("calib_images",), calib, "--calib DATA"),
        (("seed",), calib or (lower and options.data is not None), "--calib DATA"),
        (("gate", "judge_images", "threads"), lower or calib, "--half, --int8, --precision auto or --calib"),
        (("target",), lower or form != "onnx", "--half, --int8 or --precision auto"),
    ):
        if not there and (useless := given_of(context, names)):
            raise UsageError(f"{needed} is what goes with {useless}; see --help")


def check_name(name: str | None) -> None:
    """Refuse a ``--name`` that cannot be the name of a folder.

    Raises:
        UsageError: it is empty, hidden, or has separators or characters that do not print.
    """
    from poster_edge.errors import UsageError

    if name is None:
        return
    odd = any(c in "/\\" or not c.isprintable() for c in name)
    if odd or name != name.strip() or not name or name.startswith("."):
        raise UsageError(f"--name {name!r}: expected a plain name, such as mine-48")
