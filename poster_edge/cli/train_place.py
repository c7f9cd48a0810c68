"""Where ``train`` and ``ablate`` compute, in which precision, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from poster_edge.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from poster_edge.train.loop import Device
    from poster_edge.train.team import Team

_Command = TypeVar("_Command", bound=Callable[..., Any])


def place_options(command: _Command) -> _Command:
    """Add ``--device`` and ``--precision``."""
    device = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
    precision = click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default="auto",
        show_default=True,
        help="Mixed precision; auto: bf16 on a GPU, fp32 on a CPU.",
    )
    return device(precision(command))


def countdown(minutes: float | None) -> Callable[[], float | None]:
    """What tells how many seconds are left of so many minutes, which begin now; None: no end."""
    began = time.monotonic()
    return lambda: None if minutes is None else 60 * minutes - (time.monotonic() - began)


def place_of(name: str, precision: str, team: Team) -> Device:
    """What --device and --precision name; each of several processes on a machine has the GPU of its number.

    Raises:
        UsageError: the device is none, or several processes are to share a GPU.
        UnavailableError: the device was asked for by name and is not there.
    """
    import torch

    from poster_edge.train.loop import Device

    if team.size > 1 and name not in ("auto", "cpu"):
        raise UsageError(f"--device {name}: torchrun gives each process its GPU; leave it out, or pass cpu")
    chosen = (f"cuda:{team.local}" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if chosen != "cpu" and not chosen.startswith("cuda"):
        raise UsageError(f"--device {name}: expected auto, cpu or cuda:N")
    if chosen.startswith("cuda"):
        index = chosen.partition(":")[2] or "0"
        if not index.isdigit() or int(index) >= torch.cuda.device_count():
            raise UnavailableError(
                f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs; use --device cpu"
            )
    return Device(chosen, precision == "bf16" or (precision == "auto" and chosen != "cpu"))
