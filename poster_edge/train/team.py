"""Several processes that train one model: who is who, and what they have to agree on.

``torchrun`` starts them and says by environment variables who each of them is; without it there is one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from poster_edge.errors import UnavailableError, UsageError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
#: A process may have to wait while the first one writes and the others are done.
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Team:
    """One process among those of a run.

    Attributes:
        rank: its number, from 0; the first one writes all files.
        size: how many there are on all machines.
        local: its number on its machine, which is its GPU's.
        beside: how many there are on its machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    beside: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This process's equal share of rows that all processes have, whose number divides by theirs."""
        share = len(rows) // self.size
        return rows[self.rank * share : (self.rank + 1) * share]

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            dist.barrier()

    def agree(self, value: Any) -> Any:
        """The first process's value, in all of them; a plain value such as a bool, a number, a dict of them."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def copy_first(self, state: dict[str, Tensor]) -> None:
        """Overwrite tensors by the first process's."""
        if self.size > 1:
            for value in state.values():
                # Kernels laid out channels last are not contiguous.
                sent = value.contiguous()
                dist.broadcast(sent, src=0)
                value.copy_(sent)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes, one process after another; they may have different numbers of them."""
        if self.size == 1:
            return rows
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows.cpu())
        return torch.cat(parts).to(rows.device)


def started() -> Team:
    """Who this process is, from what ``torchrun`` put into its environment.

    Raises:
        UsageError: only a part of the variables is there, or they are no numbers.
    """
    given = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if not given:
        return Team()
    if "LOCAL_WORLD_SIZE" in os.environ:
        given["LOCAL_WORLD_SIZE"] = os.environ["LOCAL_WORLD_SIZE"]
    if not given.keys() >= set(_VARIABLES) or not all(v.isdigit() for v in given.values()):
        raise UsageError(
            f"the environment has {', '.join(f'{k}={v}' for k, v in given.items())}: expected whole numbers in all of "
            f"{', '.join(_VARIABLES)}, as torchrun sets them, or none of them"
        )
    # Launchers other than torchrun leave the last one out.
    return Team(*(int(given.get(name, "1")) for name in (*_VARIABLES, "LOCAL_WORLD_SIZE")))


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """Meet the other processes of a run that ``torchrun`` started, and part in the end.

    Args:
        device: "cpu" (gloo) or "cuda:N" (NCCL), where this process computes.

    Raises:
        UsageError: see :func:`started`.
        UnavailableError: torch was built without what it takes, or the processes do not find each other.
    """
    team = started()
    if team.size == 1:
        yield team
        return
    backend = "gloo" if device == "cpu" else "nccl"
    if not dist.is_available() or not (dist.is_gloo_available() if device == "cpu" else dist.is_nccl_available()):
        raise UnavailableError(f"this torch {torch.__version__} has no {backend}, which {team.size} processes need")
    if device != "cpu":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UnavailableError(f"the {team.size} processes do not find each other ({error}); see torchrun") from error
    try:
        yield team
    finally:
        dist.destroy_process_group()
