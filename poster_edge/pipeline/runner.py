"""Drives a run: frames from a source through the pipeline into the sinks, counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from typing import Protocol

from poster_edge.pipeline.frame import FrameResult, Source
from poster_edge.pipeline.report import Tally
from poster_edge.pipeline.show import StopRequested
from poster_edge.pipeline.stages import Pipeline


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
    try:
        with closing(frames):  # type: ignore[type-var]
            try:
                for frame in islice(frames, max_frames):
                    result = pipeline.process(frame)
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
