"""Chooses what computes the cross-fusion: fused kernels, PyTorch's fused attention, or the plain maths.

A back end says what it needs and checks each call.  An automatic choice takes the first that serves
and logs once why the others do not; one asked for by name (:func:`use`, or ``POSTER_EDGE_KERNELS``)
serves or raises.  Names: ``auto``, ``triton``, ``cuda``, ``sdpa``, ``eager``; ``triton:int8`` and
``cuda:int8`` take INT8 weights.  "cuda" runs what ``poster-edge kernels build`` compiled, without Triton.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from poster_edge.errors import InputError, UnavailableError, UsageError
from poster_edge.kernels.chain import Launcher
from poster_edge.kernels.launch import largest_batch
from poster_edge.kernels.shape import FusionShape
from poster_edge.optional import available, require

if TYPE_CHECKING:
    from poster_edge.kernels.aot_loader import AheadOfTime

VARIABLE = "POSTER_EDGE_KERNELS"
#: Names the folder of kernels that the back end "cuda" runs.
FOLDER = "POSTER_EDGE_KERNELS_FOLDER"
_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}

_log = logging.getLogger("poster_edge.kernels")
_logged: set[tuple[str, str]] = set()
_asked: ContextVar[str | None] = ContextVar("poster_edge_kernels", default=None)
_served: ContextVar[set[str] | None] = ContextVar("poster_edge_kernels_served", default=None)


@dataclass(frozen=True)
class Call:
    """What is to be computed.

    Attributes:
        shape: sizes of a depth.
        batch: B.
        dtype: type of the activations.
        device: where they are.
        training: gradients are wanted, or dropout is on.
        int8: INT8 weights were asked for.
        autocast: torch is to choose the types.
    """

    shape: FusionShape
    batch: int
    dtype: torch.dtype
    device: torch.device
    training: bool = False
    int8: bool = False
    autocast: bool = False

    @property
    def precision(self) -> str:
        """Precision in which the weights are packed."""
        return "w8a16" if self.int8 else _PRECISIONS[self.dtype]


@dataclass(frozen=True)
class Backend:
    """One way to compute it.

    Attributes:
        name: what it is asked for by.
        needs: in words, for messages.
        reject: why a call cannot be served, or None.
        decline: why an automatic choice passes over a call that could be served, or None.
        launcher: gives the fused kernels' launcher; None where torch computes the depth.
    """

    name: str
    needs: str
    reject: Callable[[Call], str | None]
    decline: Callable[[Call], str | None] = lambda call: None
    launcher: Callable[[], Launcher] | None = None


def _reject_fused(call: Call) -> str | None:
    """What every fused back end asks of a call."""
    if call.training:
        return "it has no backward pass: use torch.inference_mode() and model.eval()"
    if call.autocast:
        return "autocast is on: convert the model instead"
    if call.dtype not in _PRECISIONS:
        return f"activations are {call.dtype} (float32, float16 or bfloat16 is needed)"
    if call.int8 and call.dtype != torch.float16:
        return f"INT8 weights go with float16 activations, not {call.dtype}"
    if reason := call.shape.unsupported():
        return reason
    largest = largest_batch(call.shape)
    return f"a batch of {call.batch} is too large (at most {largest})" if call.batch > largest else None


def interpreting() -> bool:
    """Whether Triton's interpreter was asked for, which runs on the CPU and is for tests."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _reject_triton(call: Call) -> str | None:
    if call.device.type != "cuda" and not (interpreting() and call.device.type == "cpu"):
        return f"it needs a CUDA GPU, and the tensors are on '{call.device.type}'"
    if call.device.type == "cuda" and torch.cuda.get_device_capability(call.device) < (8, 0):
        return "it needs compute capability 8.0 or later"
    if not available("triton"):
        return "triton is not installed (pip install triton; it comes with torch's CUDA wheels)"
    return _reject_fused(call)


def _decline_triton(call: Call) -> str | None:
    if call.device.type != "cuda":
        return "the interpreter is for tests"
    if call.dtype == torch.float32:
        return "exact float32 leaves the tensor cores unused"
    return None


def _load_triton() -> Launcher:
    require("triton", purpose="run the fused kernels")
    from poster_edge.kernels.triton.jit import launch

    return launch


def _reject_plain(call: Call) -> str | None:
    return "INT8 weights exist only in the fused kernels" if call.int8 else None


def _reject_cuda(call: Call) -> str | None:
    if call.device.type != "cuda":
        return f"it needs a CUDA GPU, and the tensors are on '{call.device.type}'"
    folder = os.environ.get(FOLDER)
    if not folder:
        return f"no compiled kernels are named: poster-edge kernels build … -o DIR, then {FOLDER}=DIR"
    try:
        shape, precision = _described(Path(folder), _stamp(Path(folder)))
    except InputError as error:
        return str(error)
    if (shape, precision) != (call.shape, call.precision):
        return f"{folder} holds {precision} kernels for {shape}, not {call.precision} for {call.shape}"
    return _reject_fused(call)


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Tells whether a folder of kernels is still the one that was read: every forward pass asks."""
    from poster_edge.kernels.aot import MANIFEST

    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=8)
def _described(folder: Path, stamp: tuple[int, int] | None) -> tuple[FusionShape, str]:
    """Sizes and precision of a folder of kernels."""
    from poster_edge.kernels.aot_loader import read_manifest

    return read_manifest(folder)[:2]


def _load_cuda() -> Launcher:
    folder = Path(os.environ[FOLDER])
    return _open_compiled(folder, _stamp(folder), torch.cuda.current_device()).launch


@functools.cache
def _open_compiled(folder: Path, stamp: tuple[int, int] | None, device: int) -> AheadOfTime:
    from poster_edge.kernels.aot_loader import AheadOfTime
    from poster_edge.kernels.cuda.driver import Driver

    return AheadOfTime(folder, Driver(ordinal=device))


#: Name -> back end, in the order in which an automatic choice tries them.
BACKENDS: dict[str, Backend] = {
    b.name: b
    for b in (
        Backend("triton", "triton and a CUDA GPU", _reject_triton, _decline_triton, _load_triton),
        Backend("cuda", "kernels compiled ahead and a CUDA GPU", _reject_cuda, launcher=_load_cuda),
        Backend("sdpa", "nothing", _reject_plain),
        Backend("eager", "nothing", _reject_plain),
    )
}


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Within this context the named back end computes, or raises.

    Args:
        name: "auto" or a key of :data:`BACKENDS`, with ":int8" for INT8 weights.

    Raises:
        UsageError: unknown name.
    """
    parse(name)
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


@contextlib.contextmanager
def recorded() -> Iterator[set[str]]:
    """Within this context the names of what really computed are collected, such as "triton:int8" or "sdpa"."""
    names: set[str] = set()
    token = _served.set(names)
    try:
        yield names
    finally:
        _served.reset(token)


def note(name: str) -> None:
    """Tell :func:`recorded` what computed."""
    names = _served.get()
    if names is not None:
        names.add(name)


def asked() -> str:
    """What was asked for: by :func:`use`, else by the environment, else "auto"."""
    return _asked.get() or os.environ.get(VARIABLE) or "auto"


def parse(name: str) -> tuple[str, bool]:
    """Back end and whether INT8 weights are wanted.

    Raises:
        UsageError: unknown name.
    """
    backend, _, weights = name.partition(":")
    if backend not in ("auto", *BACKENDS) or weights not in ("", "int8"):
        raise UsageError(
            f"unknown kernels '{name}'; known: auto, {', '.join(BACKENDS)}, and triton:int8 for INT8 weights"
        )
    if weights and BACKENDS.get(backend, BACKENDS["eager"]).launcher is None:
        raise UsageError(f"INT8 weights exist only in fused kernels: 'triton:int8', not '{name}'")
    return backend, bool(weights)


def choose(call: Call, *, backend: str = "auto") -> Backend:
    """Pick the back end of one call.

    Args:
        call: what is to be computed.
        backend: "auto", or a name that serves or raises.

    Raises:
        UnavailableError: the named back end cannot serve the call; says why.
    """
    if backend != "auto":
        reason = BACKENDS[backend].reject(call)
        if reason is not None:
            raise UnavailableError(f"kernels '{backend}' were asked for and cannot serve: {reason}")
        return BACKENDS[backend]
    for candidate in BACKENDS.values():
        reason = candidate.reject(call) or candidate.decline(call) or _broken.get(candidate.name)
        if reason is None:
            return candidate
        log_once(candidate.name, reason, warn=False)
    raise UnavailableError(f"no kernels serve {call}")


#: Back ends that failed in this process, with the reason.
_broken: dict[str, str] = {}


def give_up(name: str, error: Exception) -> None:
    """Pass over a back end from now on in automatic choices, because it failed; logged as a warning."""
    lines = str(error).strip().splitlines()
    _broken[name] = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    log_once(name, f"it failed ({_broken[name]}); PyTorch's own kernels take over", warn=True)


def log_once(name: str, reason: str, *, warn: bool) -> None:
    """Log one reason of one back end once in a process."""
    if (name, reason) not in _logged:
        _logged.add((name, reason))
        _log.log(logging.WARNING if warn else logging.INFO, "kernels '%s' are not used: %s", name, reason)
