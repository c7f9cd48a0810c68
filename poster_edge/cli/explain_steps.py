"""From a photo to the pictures of ``poster-edge explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.cli import console
from poster_edge.cli.eval_model import load_weights
from poster_edge.data.preprocess import resize_square, to_channels, to_input
from poster_edge.errors import UsageError
from poster_edge.labels import canonical
from poster_edge.pipeline.frame import Frame
from poster_edge.pipeline.sources import find_files, is_video
from poster_edge.runtime.checkpoint_bundle import load_bundle_or_checkpoint
from poster_edge.train.metrics import softmax
from poster_edge.vision.align import crop_face, usable
from poster_edge.vision.confusion import write_png
from poster_edge.vision.faces import Detector, Face, Image
from poster_edge.vision.relevance_picture import draw_relevance

if TYPE_CHECKING:
    from poster_edge.models.relevance import Relevance


def photos(source: str) -> list[Path]:
    """The photos that SRC names.

    Raises:
        InputError: nothing is there.
        UsageError: only videos are there.
    """
    found = find_files(source)
    still = [p for p in found if not is_video(p)]
    if not still:
        raise UsageError(f"--source {source}: explain takes photos, not videos; save a frame of it first")
    if len(still) < len(found):
        console.message(f"{len(found) - len(still)} videos are passed over: explain takes photos")
    return still


class Explainer:
    """Explains the faces of photos and writes a picture of each.

    Args:
        model: name, bundle or checkpoint.
        folder: for the pictures; made if missing.
        label: class to explain, or None for each face's most probable one.

    Raises:
        UsageError: no weights, or an unknown class.
        UnavailableError: another network than POSTER.
    """

    def __init__(self, model: str, folder: Path, label: str | None) -> None:
        bundle = load_bundle_or_checkpoint(model, runtime="torch")
        self.network, self.info = load_weights(bundle, None, purpose="explain", option="--model")
        if not bundle.manifest.has_trained_weights:
            console.message(f"{bundle.folder} has random weights: what it chooses, and why, means nothing")
        from poster_edge.models.relevance import check_explainable

        check_explainable(self.network)
        self.label, self.folder = None if label is None else canonical(label), folder
        if self.label is not None and self.label not in self.info.classes:
            raise UsageError(f"--class {label}: the model knows {', '.join(self.info.classes)}")
        self._taken: set[Path] = set()

    def explain(self, frame: Frame, detector: Detector) -> list[dict[str, Any]]:
        """Find the faces of one photo, explain them in one batch, write the pictures; one row a face."""
        faces = [f for f in detector.detect(frame.image, fine=True) if usable(f.box, frame.image)]
        if not faces:
            return []
        crops = [crop_face(frame.image, face, self.info.preprocess) for face in faces]
        found = self._relevance(crops)
        probabilities = softmax(found.logits, temperature=self.info.temperature)
        stem = Path(frame.source).stem
        names = [stem] if len(faces) == 1 else [f"{stem}-{k}" for k in range(1, len(faces) + 1)]
        return [
            self._write(frame, face, crops[i], _of(found, i), probabilities[i], int(found.explained[i]), names[i])
            for i, face in enumerate(faces)
        ]

    def _relevance(self, crops: list[Image]) -> Relevance:
        import torch

        from poster_edge.models.relevance import explain

        classes = None
        if self.label is not None:
            classes = torch.full((len(crops),), self.info.classes.index(self.label))
        return explain(self.network, torch.from_numpy(to_input(crops, self.info.preprocess)), classes=classes)

    def _write(
        self,
        frame: Frame,
        face: Face,
        crop: Image,
        maps: dict[str, NDArray[np.float32]],
        probabilities: NDArray[np.float64],
        explained: int,
        name: str,
    ) -> dict[str, Any]:
        classes, widths = self.info.classes, self.network.config.dims  # type: ignore[attr-defined]
        best = int(probabilities.argmax())
        lines = [f"{classes[best]} {probabilities[best]:.0%}"]
        if explained != best:
            lines.append(f"why {classes[explained]} ({probabilities[explained]:.0%})?")
        # What the network saw: its size and its colours.
        seen = to_channels(resize_square(crop, self.info.preprocess.size, "linear"), "bgr")
        if self.info.preprocess.colour == "gray":
            seen = to_channels(seen, "gray")
        path = self._free(self.folder / f"{name}.png")
        write_png(path, draw_relevance(seen, maps, widths, lines=lines))
        total = sum(float(m.sum()) for m in maps.values()) or 1.0
        return {
            "source": frame.source,
            "picture": str(path),
            "box": [round(v, 1) for v in face.box],
            "label": classes[best],
            "explained": classes[explained],
            "probability": float(probabilities[explained]),
            "shares": {stream: float(m.sum()) / total for stream, m in maps.items()},
            "widths": list(widths),
            "maps": {stream: m.tolist() for stream, m in maps.items()},
        }

    def _free(self, path: Path) -> Path:
        """A path that no earlier photo of this call took (photos of two folders can have one name)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        candidate, number = path, 1
        while candidate in self._taken:
            number += 1
            candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
        self._taken.add(candidate)
        return candidate


def _of(found: Relevance, face: int) -> dict[str, NDArray[np.float32]]:
    return {stream: m[face] for stream, m in found.maps.items()}
