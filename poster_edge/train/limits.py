"""Options of frozen settings with the values they may take, and the message for those they may not.

No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from poster_edge.errors import UsageError

_KEY = "limits"


@dataclass(frozen=True)
class Limits:
    """The values an option may take.

    Attributes:
        low: smallest number.
        high: largest number.
        above: numbers must be larger than this.
        below: numbers must be smaller than this.
        choices: the only texts allowed.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()

    def allow(self, value: Any) -> bool:
        """Whether a value is among them; None, for "not set", always is."""
        if value is None:
            return True
        if self.choices:
            return value in self.choices
        # NaN compares false with everything, so it is asked what it is, not what it is not.
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def describe(self) -> str:
        """What is allowed, in words: "2 or more", "from 0 to below 1", "adamw or adam"."""
        if self.choices:
            return " or ".join((", ".join(self.choices[:-1]), self.choices[-1]) if self.choices[1:] else self.choices)
        upper = "" if self.high is None else f"{self.high:g}"
        upper = upper if self.below is None else f"below {self.below:g}"
        if self.above is not None:
            return f"above {self.above:g}" + (f" and up to {upper}" if upper else "")
        if self.low is not None:
            return f"from {self.low:g} to {upper}" if upper else f"{self.low:g} or more"
        return f"at most {upper}" if upper else "a number"


def option(default: Any, **limits: Any) -> Any:
    """A field of a frozen dataclass with its default and its :class:`Limits`."""
    return field(default=default, metadata={_KEY: Limits(**limits)})


def check(settings: Any) -> None:
    """Compare every field of a dataclass that was made with :func:`option` with its limits.

    Raises:
        UsageError: the first that is outside: its name, its value and what was expected.
    """
    for entry in fields(settings):
        limits = entry.metadata.get(_KEY)
        value = getattr(settings, entry.name)
        if limits is not None and not limits.allow(value):
            raise UsageError(f"{entry.name} is {value}, expected {limits.describe()}")
