"""Runs CUDA k1 on a host: the kernel's own source, compiled as C++ with ``csrc/emulator.h``.

This is how the kernel's numerics, barriers, copies and addresses are checked without a GPU.  It takes
about a second a sample at POSTER's sizes and says nothing about speed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from poster_edge.errors import PosterEdgeError, UnavailableError
from poster_edge.files import atomic_path, user_cache
from poster_edge.kernels.cache import hash_sources
from poster_edge.kernels.cuda.problem import K1Weights

CSRC = Path(__file__).parent / "csrc"
_FLAGS = ("-x", "c++", "-std=c++17", "-O2", "-fPIC", "-shared", "-DPOSTER_EDGE_EMULATE")
#: Hardened builds of glibc take a switch between fibers for a corrupted stack; GCC has no "unroll" pragma.
_QUIET = ("-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Wno-unknown-pragmas")


def build_emulator(*, source: Path = CSRC / "k1.cu", cache: Path | None = None) -> Path:
    """Compile a kernel for the host, once for each version of the source.

    Args:
        source: the kernel; headers are looked for beside it, then in ``csrc/``.
        cache: folder of compiled kernels [default: the user's].

    Raises:
        UnavailableError: no C++ compiler.
        PosterEdgeError: the compiler refuses the source.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None or shutil.which(compiler) is None:
        raise UnavailableError("a C++ compiler is needed to run CUDA kernels on a host: install g++ or set CXX")
    headers = [*CSRC.glob("*.h"), source]
    key = hash_sources(headers, compiler, *_FLAGS, *_QUIET)
    library = (cache or user_cache()) / "kernels" / key[:16] / f"{source.stem}.so"
    if not library.exists():
        with atomic_path(library) as temporary:
            command = [compiler, *_FLAGS, *_QUIET, f"-I{CSRC}", str(source), "-o", str(temporary)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise PosterEdgeError(f"{compiler} cannot compile {source.name}: {_first_error(done.stderr)}")
    return library


def _first_error(log: str) -> str:
    lines = [line for line in log.splitlines() if "error" in line]
    return (lines or log.splitlines() or ["no message"])[0]


def attend_emulated(
    x: Tensor, weights: K1Weights, *, partials: Tensor | None = None, seed: int = 0, library: Path | None = None
) -> Tensor:
    """k1 on the CPU; outputs start as NaN.

    Args:
        x: (B, T, W) FP16.
        weights: on the CPU.
        partials: (B, T, L, H, 2) float32 from the depth before, or None.
        seed: of the order in which warps take turns; a correct kernel does not depend on it.
        library: from :func:`build_emulator`.

    Returns:
        (B, T, W) FP16, heads side by side.

    Raises:
        PosterEdgeError: threads wait for ever, disagree, or use a bad address.
    """
    run = ctypes.CDLL(str(library or build_emulator())).poster_edge_k1_emulated
    out = torch.full_like(x, torch.nan)
    message = ctypes.create_string_buffer(256)
    problem = weights.problem(x, partials, out)
    if run(ctypes.byref(problem), x.shape[0], ctypes.c_uint(seed), message, len(message)):
        raise PosterEdgeError(f"k1: {message.value.decode()}")
    return out
