"""Processor time of everybody else, from the kernel's own accounts (``/proc/stat``, see proc_stat(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from poster_edge.bench.environment import usable_cores
from poster_edge.bench.sysfs import ROOT, text

#: Columns of a processor's line in /proc/stat that are work; the others are idle, waiting for a disk, and guests,
#: whose time is in "user" already.
_WORK = (0, 1, 2, 5, 6)
_STEAL = 7


@dataclass(frozen=True)
class Accounts:
    """Processor time since the start of the machine, in seconds, over the processors that this process may use.

    Attributes:
        busy: of all processes.
        stolen: what the host gave to other virtual machines.
        own: of the processes that measure.
    """

    busy: float
    stolen: float
    own: float


def read_accounts(pids: Iterable[int], root: Path = ROOT) -> Accounts | None:
    """The accounts now; None where the kernel has none to read.

    Args:
        pids: processes that measure; one that has ended counts as nothing.
        root: where /proc lies.
    """
    ticks, cores = _ticks_per_s(), usable_cores(root)
    busy = stolen = 0
    lines = (text(root / "proc/stat") or "").splitlines()
    for words in (line.split() for line in lines):
        if words and words[0][:3] == "cpu" and words[0][3:].isdigit() and int(words[0][3:]) in cores:
            values = [int(w) for w in words[1:]]
            busy += sum(values[i] for i in _WORK)
            stolen += values[_STEAL] if len(values) > _STEAL else 0
    if not any(line.startswith("cpu") for line in lines):
        return None
    return Accounts(busy / ticks, stolen / ticks, sum(_used(root, pid) for pid in pids) / ticks)


def _used(root: Path, pid: int) -> int:
    """Ticks that a process has used, its finished children not counted."""
    content = text(root / f"proc/{pid}/stat") or ""
    # The name, in parentheses, may hold blanks and parentheses of its own.
    words = content.rpartition(")")[2].split()
    return int(words[11]) + int(words[12]) if len(words) > 12 else 0


def _ticks_per_s() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def resident_mib(pid: int | str = "self", root: Path = ROOT) -> dict[str, float]:
    """ "rss" and "peak" of a process's own memory in MiB; empty where the kernel does not tell.

    The peak is the kernel's ``VmHWM``, not ``ru_maxrss``: that one is handed on from the process that
    started this one.
    """
    names = {"VmRSS:": "rss", "VmHWM:": "peak"}
    lines = [line.split() for line in (text(root / f"proc/{pid}/status") or "").splitlines()]
    return {names[w[0]]: int(w[1]) / 1024 for w in lines if len(w) > 1 and w[0] in names}
