"""One comparison: all candidates opened and warmed up, then rounds in which each takes its turn, A B A B."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from poster_edge.bench.candidates import Candidate, Comparison
from poster_edge.bench.noise import DEFAULT_LIMITS, Limits, Noise, Watch
from poster_edge.bench.process import CandidateError, Opened, Process
from poster_edge.bench.work import Frames
from poster_edge.errors import UnavailableError

#: Seconds of timed calls in one turn; a slow candidate makes one call.
TURN_S = 0.25
#: Rounds that are made however long they take: fewer give no interval.
FEWEST_ROUNDS = 5


@dataclass
class Measured:
    """What one candidate showed.

    Attributes:
        candidate: what it is.
        opened: what its process said.
        rounds: ms of its calls, an array per round.
        memory: "rss" and "peak" of its process in MiB, after the timed part.
        stages: median ms of each stage of a frame.
    """

    candidate: Candidate
    opened: Opened
    rounds: list[NDArray[np.float64]] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def times(self) -> NDArray[np.float64]:
        """All calls, in ms."""
        return np.concatenate(self.rounds)


#: Called after the timed part with each candidate's process, while it is still there.
Afterwards = Callable[[Process], None]


def measure(
    comparison: Comparison,
    *,
    duration_s: float,
    frames: Frames | None = None,
    limits: Limits = DEFAULT_LIMITS,
    notify: Callable[[str], None] | None = None,
    advance: Callable[[float], None] | None = None,
    afterwards: Afterwards | None = None,
) -> tuple[list[Measured], Noise]:
    """Time the candidates of one comparison in turns.

    Args:
        comparison: what is compared.
        duration_s: seconds of timed calls for each candidate, on the average.
        frames: what scope "frame" works on.
        limits: from where on the run is noisy.
        notify: told of candidates nobody asked for by name that cannot serve here.
        advance: told how much of the timed part is done, 0 to 1.
        afterwards: called with every process once the times are taken.

    Returns:
        the candidates that served, the baseline of each model before its others, and what disturbed them.

    Raises:
        CandidateError: a candidate that was asked for by name cannot serve.
        UnavailableError: none can.
    """
    with ExitStack() as stack:
        pairs = _open_all(stack, comparison.candidates, frames, notify)
        gpu = any(c.device.startswith("cuda") or c.runtime.startswith("tensorrt") for c in comparison.candidates)
        watch = Watch([os.getpid(), *(p.pid for p, _ in pairs)], gpu=gpu, limits=limits)
        watch.start()
        rounds = take_turns([p for p, _ in pairs], duration_s, watch, advance)
        noise = watch.stop()
        for (process, found), own in zip(pairs, rounds, strict=True):
            found.rounds, found.memory, found.stages = own, process.memory(), process.stages()
        for process, _ in pairs:
            if afterwards:
                afterwards(process)
        return [found for _, found in pairs], noise


def _open_all(
    stack: ExitStack, candidates: Sequence[Candidate], frames: Frames | None, notify: Callable[[str], None] | None
) -> list[tuple[Process, Measured]]:
    """Open one after the other, so that none is warmed up while another loads."""
    pairs = []
    for candidate in candidates:
        process = Process(candidate, frames)
        try:
            opened = process.open()
        except CandidateError as error:
            process.__exit__()
            if candidate.asked or error.exit_code != UnavailableError.exit_code:
                raise
            if notify:
                notify(f"{candidate.label} is left out: {error}")
            continue
        except BaseException:
            process.__exit__()
            raise
        stack.enter_context(process)
        pairs.append((process, Measured(candidate, opened)))
    if not pairs:
        raise UnavailableError("no candidate can serve here")
    return pairs


class TakesTurns(Protocol):
    """What is timed: a process of :mod:`poster_edge.bench.process`, or somebody else's."""

    def turn(self, calls: int) -> NDArray[np.float64]:
        """Milliseconds of some calls in a row, after a pause and an untimed call."""


def take_turns(
    processes: Sequence[TakesTurns],
    duration_s: float,
    watch: Watch,
    advance: Callable[[float], None] | None = None,
) -> list[list[NDArray[np.float64]]]:
    """Time some processes in rounds, A B A B.

    Args:
        processes: opened and warmed up.
        duration_s: seconds of timed calls for each, on the average.
        watch: started; looks at the machine after each round.
        advance: told how much is done, 0 to 1.

    Returns:
        for each process, an array of ms per round.
    """
    found: list[list[NDArray[np.float64]]] = [[] for _ in processes]
    calls = [1] * len(processes)
    budget_s, timed, rounds = duration_s * len(processes), 0.0, 0
    turn_ms = 1e3 * min(TURN_S, duration_s / FEWEST_ROUNDS)
    while rounds < FEWEST_ROUNDS or timed < budget_s:
        for number, process in enumerate(processes):
            times = process.turn(calls[number])
            found[number].append(times)
            # Turns of equal length, so that a slow moment of the machine hits each with the same chance.
            calls[number] = max(1, int(turn_ms / max(float(np.median(times)), 1e-3)))
            timed += float(times.sum()) / 1e3
        rounds += 1
        watch.round_done()
        if advance:
            advance(min(1.0, rounds / FEWEST_ROUNDS, timed / budget_s if budget_s else 1.0))
    return found
