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
from poster_edge.train.transfer import Transferred, take_over


@dataclass(frozen=True)
class StartingWeights:
    """Files to start from.

    Attributes:
        init: a checkpoint of this project for the whole network, landmark stream included.
        transfer: a checkpoint of another model or for other classes, of which is taken what fits.
        trunk: torchvision's file for a residual trunk.
        image: published IR-50 weights for POSTER's image stream.
        landmark: published MobileFaceNet weights for POSTER's landmark stream, which then needs no pre-training.

    Raises:
        UsageError: ``init`` or ``transfer`` together with another file.
    """

    init: Path | None = None
    trunk: Path | None = None
    image: Path | None = None
    landmark: Path | None = None
    transfer: Path | None = None

    def __post_init__(self) -> None:
        parts = {"--trunk": self.trunk, "--image-weights": self.image, "--landmark-weights": self.landmark}
        parts["--transfer"] = self.transfer
        whole = "--init" if self.init is not None else "--transfer" if self.transfer is not None else ""
        given = [name for name, path in parts.items() if path is not None and name != whole]
        if whole and given:
            raise UsageError(f"{whole} brings the whole network's weights with it: leave out {' and '.join(given)}")

    def load(self, network: Network, classes: tuple[str, ...]) -> Transferred:
        """Put the weights into a network that is to tell ``classes`` apart.

        Returns:
            what was taken over, its note empty where that is all that was asked for.

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
        if self.transfer is not None:
            return take_over(network, self.transfer, classes)
        return Transferred(landmarks=self.init is not None or self.landmark is not None, note="")

    def notes(self, taken: Transferred, fed: Preprocess, *, with_points: bool) -> list[str]:
        """What a run should know that goes on with a network of another run: what is taken, not used, unlike.

        Args:
            taken: what :meth:`load` returned.
            fed: how this run feeds its images.
            with_points: whether it was given landmarks to learn.
        """
        source = self.init or self.transfer
        if source is None:
            return []
        notes = [taken.note] if taken.note else []
        if with_points and taken.landmarks:
            option = "--init" if self.init is not None else "--transfer"
            notes.append(f"{option} brings the landmark stream too: --landmarks is not learned from")
        began = read_info(source).preprocess
        if (began.colour, began.mean, began.std) != (fed.colour, fed.mean, fed.std):
            notes.append(
                f"{source} has learned from {_feeding(began)}; this run feeds {_feeding(fed)}: a recipe's colour "
                "says which"
            )
        return notes

    def describe(self) -> dict[str, str]:
        """File name and SHA-256 of each, for the records."""
        names = {
            "init": self.init,
            "transfer": self.transfer,
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
