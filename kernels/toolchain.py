"""NVIDIA's compilers: where they are, what each architecture allows, and what a compiled kernel uses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from poster_edge.errors import PosterEdgeError, UnavailableError, UsageError

#: Architecture -> shared memory that one block may use, bytes (CUDA programming guide, technical specifications).
SHARED_LIMIT: dict[int, int] = {
    75: 64 << 10,
    80: 163 << 10,
    86: 99 << 10,
    87: 163 << 10,
    89: 99 << 10,
    90: 227 << 10,
    100: 227 << 10,
    103: 227 << 10,
    110: 227 << 10,
    120: 99 << 10,
    121: 99 << 10,
}
#: What this project compiles for when nothing is named.
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 110, 120)
#: A block's shared memory above this must be asked for at launch.
SHARED_DEFAULT = 48 << 10
#: Matrix instructions in PTX, newest first.
_MATRIX = ("tcgen05.mma", "wgmma.mma_async", "mma.sync", "wmma.mma")


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of a device.

    Attributes:
        registers: of each thread.
        shared: bytes of shared memory of a block, static and dynamic.
        spills: bytes of registers that a thread writes to memory and reads back, the larger of both.
        stack: bytes of a thread's stack.
        matrix: the matrix instruction in its PTX, or "".
    """

    registers: int
    shared: int
    spills: int
    stack: int
    matrix: str


def parse_arch(text: str) -> int:
    """ "sm_87", "87" or "8.7" -> 87.

    Raises:
        UsageError: something else, or an architecture that is not known here.
    """
    match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip().lower())
    arch = int(match[1] + match[2]) if match else 0
    if arch not in SHARED_LIMIT:
        raise UsageError(f"unknown architecture '{text}'; known: {', '.join(f'sm_{a}' for a in SHARED_LIMIT)}")
    return arch


def find_tool(name: str) -> Path | None:
    """A tool of the CUDA toolkit: ``$POSTER_EDGE_CUDA/bin``, ``$CUDA_HOME/bin``, PATH, /usr/local/cuda/bin."""
    for variable in ("POSTER_EDGE_CUDA", "CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(variable)
        if home and (found := shutil.which(str(Path(home) / "bin" / name))):
            return Path(found)
    found = shutil.which(name) or shutil.which(f"/usr/local/cuda/bin/{name}")
    return Path(found) if found else None


def require_tool(name: str) -> Path:
    """As :func:`find_tool`.

    Raises:
        UnavailableError: it is not there; says how to name it.
    """
    tool = find_tool(name)
    if tool is None:
        raise UnavailableError(f"{name} is not found: install the CUDA toolkit, or set CUDA_HOME to its folder")
    return tool


def tool_version(tool: Path) -> str:
    """Release of a CUDA tool: "13.0.88"."""
    done = subprocess.run([str(tool), "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"V(\d+[\d.]*)", done.stdout)
    return match[1] if match else "unknown"


def run_tool(command: list[str], *, what: str) -> str:
    """Run a compiler; returns what it printed.

    Raises:
        PosterEdgeError: it failed; carries its first error.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    if done.returncode:
        lines = [line for line in log.splitlines() if "error" in line.lower() or "fatal" in line.lower()]
        reason = (lines or log.splitlines() or [f"exit code {done.returncode}"])[0]
        raise PosterEdgeError(f"{Path(command[0]).name} cannot compile {what}: {reason.strip()}")
    return log


def read_resources(log: str, ptx: str, *, dynamic_shared: int = 0) -> Resources:
    """What ``ptxas -v`` said of one kernel.

    Args:
        log: its output.
        ptx: the kernel's PTX.
        dynamic_shared: bytes of shared memory given at launch, which ptxas does not see.

    Raises:
        PosterEdgeError: the log has no figures.
    """
    used = re.search(r"Used (\d+) registers", log)
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if used is None or frame is None:
        raise PosterEdgeError("ptxas -v printed no register count; is this a CUDA toolkit of 12 or later?")
    static = re.search(r"(\d+) bytes smem", log)
    return Resources(
        registers=int(used[1]),
        shared=(int(static[1]) if static else 0) + dynamic_shared,
        spills=max(int(frame[2]), int(frame[3])),
        stack=int(frame[1]),
        matrix=next((m for m in _MATRIX if m in ptx), ""),
    )
