"""The weights a run may start from instead of from scratch, as files that others or earlier runs wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from poster_edge.config import Preprocess
from poster_edge.errors import UsageError
from poster_edge.models.backbone_weights import load_image_weights, load_landmark_weights
from poster_edge.models.checkpoint import describe_source, load_model, read_info
from poster_edge.models.network import Network
from poster_edge.models.trunk_weights import load_trunk


@dataclass(frozen=True)
class StartingWeights:
    """Files to start from.

    Attributes:
        init: a checkpoint of this project for the whole network, landmark stream included.
        trunk: torchvision's file for a residual trunk.
        image: published IR-50 weights for POSTER's image stream.
        landmark: published MobileFaceNet weights for POSTER's landmark stream, which then needs no pre-training.

    Raises:
        UsageError: ``init`` together with a part.
    """

    init: Path | None = None
    trunk: Path | None = None
    image: Path | None = None
    landmark: Path | None = None

    def __post_init__(self) -> None:
        parts = {"--trunk": self.trunk, "--image-weights": self.image, "--landmark-weights": self.landmark}
        if self.init is not None and (given := [name for name, path in parts.items() if path is not None]):
            raise UsageError(f"--init brings the whole network's weights with it: leave out {' and '.join(given)}")

    @property
    def with_landmarks(self) -> bool:
        """Whether the landmark stream comes trained."""
        return self.init is not None or self.landmark is not None

    def load(self, network: Network, classes: tuple[str, ...]) -> None:
        """Put the weights into a network that is to tell ``classes`` apart.

        Raises:
            UsageError: ``init`` is of another model or has other classes, or the network lacks a part.
            InputError: a file is unreadable or its entries do not fit.
        """
        if self.init is not None:
            _load_all(network, self.init, classes)
        if self.trunk is not None:
            load_trunk(network, self.trunk)
        if self.image is not None:
            load_image_weights(network, self.image)
        if self.landmark is not None:
            load_landmark_weights(network, self.landmark)

    def notes(self, fed: Preprocess, *, with_points: bool) -> list[str]:
        """What a run should know that goes on with a whole network: what is not used, what is unlike.

        Args:
            fed: how this run feeds its images.
            with_points: whether it was given landmarks to learn.
        """
        if self.init is None:
            return []
        notes = ["--init brings the landmark stream too: --landmarks is not learned from"] if with_points else []
        began = read_info(self.init).preprocess
        if (began.colour, began.mean, began.std) != (fed.colour, fed.mean, fed.std):
            notes.append(
                f"{self.init} has learned from {_feeding(began)}; this run feeds {_feeding(fed)}: a recipe's colour "
                "says which"
            )
        return notes

    def describe(self) -> dict[str, str]:
        """File name and SHA-256 of each, for the records."""
        names = {
            "init": self.init,
            "trunk": self.trunk,
            "image_weights": self.image,
            "landmark_weights": self.landmark,
        }
        return {name: describe_source(path) for name, path in names.items() if path is not None}


def _feeding(preprocess: Preprocess) -> str:
    """Colours and normalisation in words."""
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (preprocess.mean, preprocess.std))
    return f"{preprocess.colour} images (mean {mean}, deviation {std})"


def _load_all(network: Network, path: Path, classes: tuple[str, ...]) -> None:
    model, info = load_model(path)
    wanted = (network.config.variant, classes)
    if (info.model, info.classes) != wanted:
        raise UsageError(
            f"{path} is {info.model} for {', '.join(info.classes)}; this run trains {wanted[0]} for "
            f"{', '.join(wanted[1])}"
        )
    network.load_state_dict(model.state_dict())
