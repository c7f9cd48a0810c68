"""Ends of a command from outside: ``kill``, ``systemctl stop``, a closed terminal clean up as Ctrl-C does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Not on every system: Windows has no SIGHUP.
_ENDS = tuple(s for n in ("SIGTERM", "SIGHUP") if (s := getattr(signal, n, None)) is not None)


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise KeyboardInterrupt, so that temporary files go and sinks are closed.

    A signal that the caller has ignored stays ignored (``nohup``). A process of ``torchrun`` is left as it is: its
    leader ends all of them at once, and one that tidied up would wait for the others.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        yield
        return
    old = {}
    try:
        for which in _ENDS:
            if signal.getsignal(which) == signal.SIG_DFL:
                old[which] = signal.signal(which, _interrupt)
    except ValueError:
        # Signals can be set in the main thread only; elsewhere the caller owns them.
        pass
    try:
        yield
    finally:
        for which, handler in old.items():
            signal.signal(which, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
