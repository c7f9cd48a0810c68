"""One colour per expression, the same in every picture; readable on dark and on light."""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]

#: Expression -> colour as BGR.
_COLOURS: dict[str, Colour] = {
    "angry": (60, 60, 235),
    "contempt": (160, 150, 30),
    "disgust": (70, 170, 60),
    "fear": (215, 90, 160),
    "happy": (40, 200, 250),
    "neutral": (200, 200, 200),
    "sad": (235, 140, 50),
    "surprise": (60, 140, 255),
}


_NO_CLASS = (150, 150, 150)


def colour_of(label: str | None, classes: tuple[str, ...]) -> Colour:
    """The colour of a class as BGR; classes without a colour of their own get one by their index, None gray."""
    if label is None:
        return _NO_CLASS
    if label in _COLOURS:
        return _COLOURS[label]
    red, green, blue = colorsys.hsv_to_rgb(classes.index(label) / len(classes), 0.65, 0.95)
    return round(blue * 255), round(green * 255), round(red * 255)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever reads better on a colour (by its luminance)."""
    blue, green, red = colour
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 128 else (255, 255, 255)
