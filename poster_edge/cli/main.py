"""Entry point ``poster-edge``: finds the command, turns user errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from poster_edge import __version__
from poster_edge.cli.signals import ended_like_ctrl_c
from poster_edge.errors import PosterEdgeError

#: Command -> (module of this package that defines ``command``, one line of help).
COMMANDS: dict[str, str] = {
    "run": "Find faces in pictures, videos or a camera and name their expressions.",
    "models": "List the models with parameters, FLOPs, input and accuracy.",
    "eval": "Measure a bundle on labelled faces.",
    "explain": "Draw which places of a face made POSTER choose its class.",
    "bench": "Compare runtimes and precisions with eager PyTorch, in turns in one run.",
    "train": "Train a model, landmark pre-training included.",
    "ablate": "Train POSTER's ablation variants and make the paper's tables.",
    "convert": "Turn a published POSTER checkpoint into safetensors.",
    "export": "Export a model to ONNX and pack a bundle.",
    "inspect": "Show a bundle's files, layers, engines, calibration and gate.",
    "profile": "Time every stage and layer, with the device's roofline.",
    "kernels": "Compile the fused kernels for a device that need not be here.",
    "doctor": "Tell what is installed, what is missing and how to get it.",
}


class _ReaderGoneError(Exception):
    """The reader of our stdout went away (``poster-edge models | head -1``)."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"poster_edge.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # click would make exit code 1 of it, a failure.
            raise _ReaderGoneError from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="poster-edge")
def cli() -> None:
    """Facial-expression models from PyTorch to the camera.

    Exit codes: 0 done, 1 run-time failure, 2 wrong usage, 3 an accuracy gate failed,
    4 the environment or the model does not fit.
    """


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    _fill_closed_handles()
    try:
        with ended_like_ctrl_c():
            code = cli.main(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.Abort:
        _fail("stopped", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except PosterEdgeError as error:
        _fail(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except (_ReaderGoneError, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        # A full disk, a name that is too long, no permission: the machine's answer, and no bug of ours.
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"error: {where}{error.strerror or error}", 1)


def _fill_closed_handles() -> None:
    """Put nothing in the place of a closed stdin, stdout or stderr (``>&-``).

    Else the first file that is opened gets its number, and what libraries print goes into that file.
    """
    for handle, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(handle)
        except OSError:
            # The lowest free number is the one that was closed.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(handle, "r" if handle == 0 else "w", closefd=False))


def _fail(message: str, code: int) -> None:
    click.echo(message, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
