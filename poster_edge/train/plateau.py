"""When a learning rate falls: after so many epochs without a better validation loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Plateau:
    """Counts epochs without a better loss; part of what a resumed run needs.

    Attributes:
        best: lowest loss so far.
        waited: epochs since then, or since the last fall.
        falls: how often the rate has fallen.
    """

    #: A loss counts as better when it is lower by this share, so that noise does not.
    THRESHOLD = 1e-4

    best: float = float("inf")
    waited: int = 0
    falls: int = 0

    def record(self, loss: float, patience: int) -> None:
        """Take an epoch's validation loss; more than ``patience`` epochs without a better one are a fall."""
        if loss < self.best * (1 - self.THRESHOLD):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > patience:
            self.waited, self.falls = 0, self.falls + 1

    def to_dict(self) -> dict[str, float]:
        """Plain values for the saved state."""
        return asdict(self)
