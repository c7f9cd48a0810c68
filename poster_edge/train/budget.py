"""As many epochs as fit into a time: their number follows from how long the first ones take.  No torch here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Epochs after which it is decided: within the usual warm-up, where the rate does not depend on their number.
DECIDED_AFTER = 3
#: Part of what is left that is kept for slower epochs and for the end of the run.
_RESERVE = 0.05


@dataclass(frozen=True)
class Budget:
    """A training's time.

    Attributes:
        seconds: from ``began`` to the end.
        began: on the monotonic clock.
    """

    seconds: float
    began: float = field(default_factory=time.monotonic)

    def epochs(self, seconds: Sequence[float], *, now: float | None = None) -> int:
        """Epochs of the whole run, those that are done included, one more at least.

        Args:
            seconds: that each epoch so far has taken; the first is not counted where there are others, as much is
                prepared in it.
            now: on the monotonic clock [default: now].
        """
        left = self.began + self.seconds - (time.monotonic() if now is None else now)
        each = statistics.median(seconds[1:] or seconds)
        return len(seconds) + max(1, int((1 - _RESERVE) * left / max(each, 1e-9)))
