"""Drives a run: frames from a source through the pipeline into the sinks, counted.

Where the runtime works by itself, a frame is captured, searched for faces and prepared while the one before it is
in the network; results still come one by one and in order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Protocol

from poster_edge.errors import PosterEdgeError
from poster_edge.pipeline.frame import Frame, FrameResult, Source
from poster_edge.pipeline.report import Tally
from poster_edge.pipeline.show import StopRequested
from poster_edge.pipeline.stages import Pipeline, Started


class Sink(Protocol):
    """Takes results."""

    def write(self, result: FrameResult) -> None:
        """Take one result."""
        ...

    def close(self) -> None:
        """Finish: all results have come."""
        ...

    def abort(self) -> None:
        """Leave nothing half done behind: the run failed."""
        ...


class Lines:
    """Sink that hands every image's result, and no video frame's, to a printer."""

    def __init__(self, write_line: Callable[[FrameResult], None]) -> None:
        self._write_line = write_line

    def write(self, result: FrameResult) -> None:
        """Print the line of an image."""
        if result.frame.kind == "image":
            self._write_line(result)

    def close(self) -> None:
        """Nothing to finish."""

    abort = close


def run(
    source: Source,
    pipeline: Pipeline,
    sinks: Sequence[Sink],
    *,
    tally: Tally,
    max_frames: int | None = None,
    advance: Callable[[], None] | None = None,
) -> bool:
    """Process frames until the source ends, the user stops, or there were enough.

    Args:
        source: where the frames come from.
        pipeline: what is done with each.
        sinks: where the results go; closed at the end, aborted when anything fails.
        tally: counts, for the summary; complete also where this raises.
        max_frames: stop after so many.
        advance: called after each frame.

    Returns:
        Whether it came to its end; False when a file's run was interrupted with Ctrl-C.  A camera
        has no other end, so that counts as one.

    Raises:
        PosterEdgeError: the source or a sink failed.
    """
    whole = True
    done = False
    frames = iter(source)
    # No source has as many frames as the largest number that islice takes.
    most = None if max_frames is None else min(max_frames, sys.maxsize)
    try:
        with closing(frames):  # type: ignore[type-var]
            try:
                for result in in_order(islice(frames, most), pipeline, more=lambda: _more(source)):
                    tally.add(result)
                    for sink in sinks:
                        sink.write(result)
                    if advance:
                        advance()
            except StopRequested:
                pass
            except KeyboardInterrupt:
                whole = source.live
        tally.stop()
        done = True
    finally:
        _finish(sinks, keep=done and whole)
    return whole


def in_order(frames: Iterator[Frame], pipeline: Pipeline, *, more: Callable[[], bool]) -> Iterator[FrameResult]:
    """Results of frames, in their order; the next frame is started before one is finished where that helps.

    Args:
        frames: from a source.
        pipeline: what is done with each.
        more: whether the next frame is there without waiting; where it is not, a result is not held back for it.

    Raises:
        BaseException: whatever the source, the pipeline or Ctrl-C raised, after the result of the frame before.
    """
    held: Started | None = None
    while True:
        ahead, failure = _start_next(frames, pipeline)
        if held is not None:
            result = _finish_held(held, pipeline, failure)
            if result is not None:
                yield result
        if failure is not None:
            raise failure
        if ahead is None:
            return
        held = ahead
        if ahead.under_way is None or not more():
            held = None
            yield pipeline.finish(ahead)


def _start_next(frames: Iterator[Frame], pipeline: Pipeline) -> tuple[Started | None, BaseException | None]:
    """The next frame, started, or None at the end; and what went wrong."""
    try:
        frame = next(frames, None)
        return (None if frame is None else pipeline.start(frame)), None
    except BaseException as error:
        return None, error


def _finish_held(held: Started, pipeline: Pipeline, failure: BaseException | None) -> FrameResult | None:
    """A result that the next frame was started before; None where it is lost to a failure that is told anyway."""
    try:
        return pipeline.finish(held, at_once=False)
    except PosterEdgeError:
        if failure is None:
            raise
        return None


def _more(source: Source) -> bool:
    """Whether a source has its next frame without waiting for it; one that cannot say has, unless it is live."""
    ready = getattr(source, "ready", None)
    return bool(ready()) if ready is not None else not source.live


def _finish(sinks: Sequence[Sink], *, keep: bool) -> None:
    """Close all sinks even if one fails; the first failure is raised."""
    failure: BaseException | None = None
    for sink in sinks:
        try:
            if keep:
                sink.close()
            else:
                sink.abort()
        except BaseException as error:
            failure = failure or error
    if failure:
        raise failure
