"""Teachers: trained networks whose opinion of what is learned from joins the labels.

Sources: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015); Beyer et al., "Knowledge
distillation: A good teacher is patient and consistent" (2022), section 3.1 (the very picture that is learned
from is what the teacher judges); Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping"
(2015), eq. 6 (a teacher of the same kind, against wrong labels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from poster_edge.config import Preprocess
from poster_edge.data.faces import FaceSet
from poster_edge.errors import UsageError
from poster_edge.labels import canonical
from poster_edge.models.checkpoint import load_model
from poster_edge.models.network import Network
from poster_edge.train.loop import Device
from poster_edge.train.normalise import Normalise
from poster_edge.train.pictures import Pictures
from poster_edge.train.prepare import at_once

#: ITU-R BT.601's weights of red, green and blue, which OpenCV makes gray with.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Teacher:
    """A trained network that is asked.

    Attributes:
        network: in evaluation mode, on the training device.
        preprocess: how it was fed when it learned.
        normalise: the same, of pixels.
        columns: where its answer has each of the run's classes, (C,).
    """

    network: Network
    preprocess: Preprocess
    normalise: Normalise
    columns: Tensor

    def probabilities(self, pixels: Tensor, device: Device) -> Tensor:
        """Of the run's classes, (B, C), for pictures (B, K, S, S) in 0..1 of its own size and colour."""
        with device.precision():
            logits = self.network(self.normalise(pixels))
        return logits.float().softmax(dim=1)[:, self.columns]


class Teachers:
    """One or more networks that are asked together.

    A teacher may be fed otherwise than the run: in another size, colour order or normalisation.

    Args:
        paths: their checkpoints.
        classes: in the run's order.
        preprocess: of the run.
        device: where and in which precision they compute.

    Raises:
        UsageError: a teacher has other classes.
    """

    def __init__(
        self, paths: Sequence[Path], *, classes: tuple[str, ...], preprocess: Preprocess, device: Device
    ) -> None:
        self.preprocess, self.device = preprocess, device
        self.teachers: list[Teacher] = []
        for path in paths:
            network, info = load_model(path)
            columns = torch.tensor(_columns(path, info.classes, classes), device=device.name)
            network = device.place(network).eval().requires_grad_(False)
            normalise = Normalise(info.preprocess, device.name)
            self.teachers.append(Teacher(network, info.preprocess, normalise, columns))

    @torch.no_grad()
    def judge(self, pixels: Tensor) -> Tensor:
        """Their mean probabilities (B, C) for the run's pictures (B, K, S, S) in 0..1, on the training device."""
        out = []
        side = max(t.preprocess.size for t in self.teachers)
        for piece in torch.split(pixels, at_once(side, self.device)):
            views = [
                t.probabilities(as_fed(piece, self.preprocess.colour, t.preprocess), self.device) for t in self.teachers
            ]
            out.append(torch.stack(views).mean(dim=0))
        return torch.cat(out)

    def pieces(self, count: int) -> int:
        """Parts in which they are asked for their opinions of so many images."""
        return sum(-(-count // at_once(t.preprocess.size, self.device)) for t in self.teachers)

    @torch.no_grad()
    def opinions(
        self, faces: FaceSet, rows: Tensor, images: Tensor | Pictures, tick: Callable[[], None] = lambda: None
    ) -> Tensor:
        """Their mean probabilities (N, C) for unchanged images, averaged over both mirrorings.

        Args:
            faces: all N; a teacher of another size or colour sees them as it learned to, in full detail.
            rows: those that are computed, (R,); the others stay 0 and must not be trained on.
            images: the run's (N, K, S, S) uint8, for teachers that are fed alike.
            tick: called after each of the pieces.

        Raises:
            InputError: an image cannot be read.
        """
        out = torch.zeros(len(images), len(self.teachers[0].columns))
        for teacher in self.teachers if len(rows) else ():
            seen = images if self._alike(teacher) else self._pictures(faces, rows, teacher)
            for chosen in torch.split(rows, at_once(teacher.preprocess.size, self.device)):
                pixels = seen[chosen.to(seen.device)].to(self.device.name).float() / 255
                views = [teacher.probabilities(view, self.device) for view in (pixels, pixels.flip(3))]
                out[chosen] += torch.stack(views).mean(dim=0).cpu()
                tick()
        return out / len(self.teachers)

    def _alike(self, teacher: Teacher) -> bool:
        own, run = teacher.preprocess, self.preprocess
        return (own.size, own.colour) == (run.size, run.colour)

    def _pictures(self, faces: FaceSet, rows: Tensor, teacher: Teacher) -> Pictures:
        # Each image is asked for once.
        size, colour = teacher.preprocess.size, teacher.preprocess.colour
        return Pictures(faces, rows.numpy(), size, colour, self.device, kind="files")


def as_fed(pixels: Tensor, colour: str, wanted: Preprocess) -> Tensor:
    """Pictures (B, K, S, S) in 0..1 in a colour order, as another network is fed: its side and its colours.

    What is made larger has no more detail than before.
    """
    if pixels.shape[1] == 3 and wanted.colour != colour:
        if wanted.colour == "gray":
            luma = torch.tensor(_LUMA if colour == "rgb" else _LUMA[::-1], device=pixels.device)
            # B x 3 x S x S -> B x 1 x S x S
            pixels = (pixels * luma[:, None, None]).sum(dim=1, keepdim=True)
        else:
            pixels = pixels.flip(1)
    if pixels.shape[-1] == wanted.size:
        return pixels
    side = (wanted.size, wanted.size)
    return F.interpolate(pixels, size=side, mode="bilinear", align_corners=False, antialias=True)


def _columns(path: Path, own: tuple[str, ...], classes: tuple[str, ...]) -> list[int]:
    """Where a teacher's answer has each of the run's classes, by name."""
    places = {canonical(name): place for place, name in enumerate(own)}
    wanted = [canonical(name) for name in classes]
    if set(wanted) != set(places):
        raise UsageError(
            f"{path} knows {', '.join(own)}, but this run learns {', '.join(classes)}; it cannot teach this run"
        )
    return [places[name] for name in wanted]
