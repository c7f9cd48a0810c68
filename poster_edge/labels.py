"""Label orders and input conventions of the data sets; an index never means the same twice.

Sources: the data sets' own files and POSTER's loaders.  RAF-DB is fed to POSTER as OpenCV's BGR,
the AffectNet loaders turn to RGB; a model carries the convention of its data set in its manifest.
"""

from __future__ import annotations

from dataclasses import dataclass

from poster_edge.errors import UsageError


@dataclass(frozen=True)
class Framing:
    """How much of a face an image of a data set shows, relative to a face detector's box.

    Attributes:
        margin: side of the image over the longer side of the box, minus 1.
        shift_y: how far the image's centre lies below the box's centre, over that longer side.
    """

    margin: float = 0.2
    shift_y: float = 0.0


@dataclass(frozen=True)
class LabelSet:
    """Ordered class names of one data set and the colour order its models are fed.

    Attributes:
        name: key used by ``--dataset`` and in metadata.
        classes: class names, index 0 first, in lower case.
        colour: "bgr", "rgb" or "gray" (one channel repeated three times).
        framing: of its images; measured for FER2013 (benchmarks/crop_framing.py), assumed elsewhere.
    """

    name: str
    classes: tuple[str, ...]
    colour: str
    framing: Framing = Framing()


_AFFECTNET = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry")
_FERPLUS = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")

_FER2013_FRAMING = Framing(margin=0.0, shift_y=-0.02)

LABEL_SETS: dict[str, LabelSet] = {
    s.name: s
    for s in (
        LabelSet("rafdb", ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"), "bgr"),
        LabelSet("affectnet7", _AFFECTNET, "rgb"),
        LabelSet("affectnet8", (*_AFFECTNET, "contempt"), "rgb"),
        # The images of FERPlus are FER2013's.
        LabelSet("ferplus", _FERPLUS, "rgb", _FER2013_FRAMING),
        LabelSet("ferplus7", _FERPLUS[:7], "rgb", _FER2013_FRAMING),
        LabelSet("ckplus", ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise"), "gray"),
        LabelSet(
            "fer2013",
            ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
            "gray",
            _FER2013_FRAMING,
        ),
    )
}

#: Other spellings found in folders and files -> the name used here.
ALIASES: dict[str, str] = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}


def label_set(name: str) -> LabelSet:
    """Look a data set up by name.

    Raises:
        UsageError: the name is unknown; lists the known ones.
    """
    try:
        return LABEL_SETS[name]
    except KeyError:
        raise UsageError(f"unknown data set '{name}'; known: {', '.join(LABEL_SETS)}") from None


def canonical(name: str) -> str:
    """Map a class name as found in a file ("Happiness", "anger ") to the one used here."""
    key = name.strip().lower()
    return ALIASES.get(key, key)
