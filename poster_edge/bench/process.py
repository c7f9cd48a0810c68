"""A process of its own for each candidate, so that memory, threads and libraries are that candidate's alone.

The processes take turns: one computes while the others wait for their pipes.  They belong to the process group
of the one that leads them, which ends them whatever happens.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.bench.candidates import Candidate
from poster_edge.bench.load import resident_mib
from poster_edge.bench.work import Frames, FrameWork, ModelWork, Work
from poster_edge.errors import PosterEdgeError
from poster_edge.runtime.timing import turn

#: A call is warmed up for this long and this often, at least, untimed.
WARM_UP_S, WARM_UP_CALLS = 0.5, 3
#: Seconds until a process that was asked to end is ended.
_GRACE_S = 5.0


@dataclass(frozen=True)
class Opened:
    """What a candidate's process says once it is ready.

    Attributes:
        description: what really runs.
        file: that it runs.
        file_bytes: its size.
        load_s: from the candidate's name to its first result.
        base_mib: memory of the process before anything was loaded.
    """

    description: str
    file: str
    file_bytes: int
    load_s: float
    base_mib: float


class CandidateError(PosterEdgeError):
    """A candidate cannot be opened or run; has the exit code of what went wrong."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Process:
    """One candidate in its process; a context manager.

    Args:
        candidate: what it runs.
        frames: what a candidate of scope "frame" works on.
    """

    def __init__(self, candidate: Candidate, frames: Frames | None = None) -> None:
        self.candidate = candidate
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, candidate, frames), daemon=True)
        with _ctrl_c_held():
            self._process.start()
        theirs.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):
            self._pipe.send(("close", ()))
        self._process.join(_GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    def open(self) -> Opened:
        """Load the candidate and warm it up.

        Raises:
            CandidateError: it cannot be loaded here.
        """
        return self._ask("open")

    def turn(self, calls: int) -> NDArray[np.float64]:
        """Milliseconds of some calls in a row, after a pause and an untimed call."""
        return self._ask("turn", calls)

    def memory(self) -> dict[str, float]:
        """ "rss" and "peak" of the process in MiB."""
        return self._ask("memory")

    def stages(self) -> dict[str, float]:
        """Median ms of each stage of a frame; empty for a model alone."""
        return self._ask("stages")

    def logits(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Logits (N, C) of N crops."""
        return self._ask("logits", crops)

    def _ask(self, command: str, *arguments: object) -> Any:
        try:
            self._pipe.send((command, arguments))
            kind, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(_GRACE_S)
            raise CandidateError(
                f"{self.candidate.label} on {self.candidate.name}: its process ended (exit code "
                f"{self._process.exitcode}), perhaps for want of memory",
                1,
            ) from error
        if kind == "failed":
            raise CandidateError(*value)
        if kind == "broken":
            raise RuntimeError(f"{self.candidate.label} on {self.candidate.name}:\n{value}")
        return value


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Hold Ctrl-C back while a process is started, which then has it blocked: no traceback of its imports."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its start, with the first process, would let Ctrl-C through again.
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _serve(pipe: Connection, candidate: Candidate, frames: Frames | None) -> None:
    """Answer commands until the pipe closes; runs in the candidate's process."""
    # Ctrl-C reaches the whole group; the leader decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print; stdout belongs to the leader's results.
    os.dup2(2, 1)
    server = _Server(candidate, frames)
    while True:
        try:
            command, arguments = pipe.recv()
        except EOFError:
            break
        if command == "close":
            break
        try:
            answer = ("done", getattr(server, command)(*arguments))
        except PosterEdgeError as error:
            answer = ("failed", (str(error), error.exit_code))
        except Exception:
            answer = ("broken", traceback.format_exc())
        try:
            pipe.send(answer)
        except OSError:
            # The leader was killed.
            break
    server.close()


class _Server:
    """The commands, on the side of the candidate's process."""

    def __init__(self, candidate: Candidate, frames: Frames | None) -> None:
        self._candidate, self._frames = candidate, frames
        self._work: Work | None = None

    def open(self) -> Opened:
        base, began = resident_mib().get("rss", 0.0), time.perf_counter()
        if self._candidate.scope == "frame":
            assert self._frames is not None
            work: Work = FrameWork(self._candidate, self._frames)
        else:
            work = ModelWork(self._candidate)
        self._work = work.__enter__()
        work.call()
        load_s = time.perf_counter() - began
        end, calls = time.perf_counter() + WARM_UP_S, 0
        while calls < WARM_UP_CALLS or time.perf_counter() < end:
            work.call()
            calls += 1
        return Opened(work.description, work.file, work.file_bytes, load_s, base)

    def turn(self, calls: int) -> NDArray[np.float64]:
        work = self._opened()
        gc.collect()
        gc.disable()
        try:
            return turn(work.call, calls=calls)
        finally:
            gc.enable()

    def memory(self) -> dict[str, float]:
        return resident_mib()

    def stages(self) -> dict[str, float]:
        work = self._opened()
        return work.stages() if isinstance(work, FrameWork) else {}

    def logits(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self._opened().logits(crops)

    def close(self) -> None:
        if self._work is not None:
            self._work.__exit__(None, None, None)

    def _opened(self) -> Work:
        if self._work is None:
            raise RuntimeError("the candidate was not opened")
        return self._work
