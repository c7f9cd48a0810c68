"""Frozen settings shared by training, export and the runtime; validated once, when they are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from poster_edge.errors import InputError

#: The packaged model that commands take when they are told no other; what is trained by default is poster-nano.
DEFAULT_MODEL = "poster-mini"
COLOURS = ("rgb", "bgr", "gray")
INTERPOLATIONS = ("linear", "area")
#: Far beyond what pictures from 0 to 1 need; what lies outside is damage.
_MEAN, _STD = 1000.0, (1e-6, 1000.0)


@dataclass(frozen=True)
class Preprocess:
    """How a face crop becomes the network's input; travels with the model in its manifest.

    Attributes:
        size: side of the square input in pixels.
        colour: "rgb", "bgr" (OpenCV's own order, as RAF-DB's POSTER was trained) or "gray" (one
            channel repeated three times).
        interpolation: "linear" or "area", used to resize the crop.
        mean: per channel, subtracted after division by 255, in the channel order of ``colour``.
        std: per channel, divided by.
        margin: side of the square crop over the longer side of the face box, minus 1.
        shift_y: downward shift of the crop's centre as a fraction of the box's longer side.
    """

    size: int = 224
    colour: str = "rgb"
    interpolation: str = "linear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    margin: float = 0.2
    shift_y: float = 0.0

    def __post_init__(self) -> None:
        if self.colour not in COLOURS:
            raise InputError(f"preprocess.colour is '{self.colour}', expected one of {', '.join(COLOURS)}")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(
                f"preprocess.interpolation is '{self.interpolation}', expected one of {', '.join(INTERPOLATIONS)}"
            )
        if not 8 <= self.size <= 4096:
            raise InputError(f"preprocess.size is {self.size} px, expected 8 to 4096")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(_STD[0] <= v <= _STD[1] for v in self.std):
            raise InputError(f"preprocess.mean and .std need three numbers each, std from {_STD[0]:g} to {_STD[1]:g}")
        # Comparisons that "nan" fails too.
        if not all(-_MEAN <= v <= _MEAN for v in self.mean):
            raise InputError(f"preprocess.mean is {self.mean}, expected numbers from {-_MEAN:g} to {_MEAN:g}")
        if not -0.5 <= self.margin <= 4:
            raise InputError(f"preprocess.margin is {self.margin}, expected -0.5 to 4")
        if not -1 <= self.shift_y <= 1:
            raise InputError(f"preprocess.shift_y is {self.shift_y}, expected -1 to 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Read what :meth:`to_dict` wrote.

        Raises:
            InputError: an entry is missing, unknown or of the wrong type.
        """
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            wrong = sorted(set(values) ^ known)
            raise InputError(f"preprocess: unexpected or missing entries: {', '.join(wrong)}")
        try:
            return cls(
                size=int(values["size"]),
                colour=str(values["colour"]),
                interpolation=str(values["interpolation"]),
                mean=_triple(values["mean"]),
                std=_triple(values["std"]),
                margin=float(values["margin"]),
                shift_y=float(values["shift_y"]),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"preprocess: {error}") from error


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c
