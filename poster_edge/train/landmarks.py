"""Pre-training of a landmark stream: it learns 68 points and is then frozen.

Loss: mean absolute error over the face's size, on faces whose pseudo-landmarks are trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poster_edge.data.faces import FaceSet, read_npz
from poster_edge.errors import InputError
from poster_edge.models.backbones import LANDMARKS
from poster_edge.models.network import LandmarkNetwork
from poster_edge.train.augment import appearance, random_affine, warp, warp_points
from poster_edge.train.loop import Device, Loop
from poster_edge.train.pictures import Pictures
from poster_edge.train.prepare import at_once

#: Trust a face's points when the annotating model saw a face and its two passes agree.
MIN_PRESENCE = 0.5
MAX_INCONSISTENCY = 0.04
_INNER = slice(17, LANDMARKS)


@dataclass(frozen=True)
class LandmarkSet:
    """Points of the faces of one data set, row by row.

    Attributes:
        points: (N, 68, 2) float32, fractions of the crop.
        trusted: (N,) whether to train on the row.
    """

    points: NDArray[np.float32]
    trusted: NDArray[np.bool_]

    def trusted_among(self, rows: NDArray[np.int64]) -> Tensor:
        """Those of these row numbers whose points are trusted.

        Raises:
            InputError: there are none.
        """
        found = rows[self.trusted[rows]]
        if not len(found):
            raise InputError(
                f"not one of {len(rows)} faces of a split has landmarks to trust (presence {MIN_PRESENCE:g} or more, "
                f"self_incons below {MAX_INCONSISTENCY:g}): leave out --landmarks"
            )
        return torch.from_numpy(found)


def load_landmarks(path: Path, faces: FaceSet) -> LandmarkSet:
    """Read landmarks that belong, row by row, to ``faces``.

    Raises:
        InputError: unreadable, misshapen, or made for another data set.
    """
    entries = read_npz(path)
    if missing := [n for n in ("landmarks", "presence", "self_incons") if n not in entries]:
        raise InputError(f"{path}: no landmark file, entries missing: {', '.join(missing)}")
    points, labels = entries["landmarks"], entries.get("labels")
    sure = [entries[n] for n in ("presence", "self_incons")]
    if points.shape != (len(faces), LANDMARKS, 2) or any(v.shape != (len(faces),) for v in sure):
        raise InputError(
            f"{path}: landmarks of shape {points.shape}, presence {sure[0].shape} and self_incons {sure[1].shape} do "
            f"not fit the {len(faces)} faces of {faces.name}"
        )
    if labels is not None and not np.array_equal(labels, faces.labels):
        raise InputError(f"{path}: its rows are not those of {faces.name} (labels differ)")
    try:
        points, presence, inconsistency = (v.astype(np.float32) for v in (points, *sure))
    except ValueError as error:
        raise InputError(f"{path}: landmarks must be numbers ({error})") from error
    trusted = (presence >= MIN_PRESENCE) & (inconsistency < MAX_INCONSISTENCY) & np.isfinite(points).all(axis=(1, 2))
    return LandmarkSet(points, trusted)


def point_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean distance of the inner points over the face's size, the geometric mean of its sides: (B,)."""
    span = target.amax(dim=1) - target.amin(dim=1)
    size = span.prod(dim=1).clamp(min=1e-4).sqrt()
    return (predicted[:, _INNER] - target[:, _INNER]).norm(dim=2).mean(dim=1) / size


def train_epoch(
    loop: Loop,
    network: LandmarkNetwork,
    images: Tensor | Pictures,
    landmarks: Tensor,
    indices: Tensor,
    normalise: Callable[[Tensor], Tensor],
    tick: Callable[[], None],
) -> float:
    """One epoch over ``indices``; images (N, 1, S, S) uint8, landmarks (N, 68, 2); returns the mean loss.

    ``loop`` calls the network's ``landmarks``.
    """
    network.train()
    generator = loop.generator()
    steps = max(len(indices) // loop.recipe.batch, 1)
    losses: list[Tensor] = []

    def loss_of(pixels: Tensor, target: Tensor) -> Tensor:
        predicted = loop.call(normalise(pixels)).float()
        span = (target.amax(dim=1) - target.amin(dim=1)).prod(dim=1).clamp(min=1e-2).sqrt()
        return ((predicted - target).abs().mean(dim=(1, 2)) / span).mean()

    for rows in loop.groups(indices, generator, pixels=images.shape[1:].numel()):
        matrices, flip = random_affine(len(rows), loop.recipe.augmentation, generator)
        pixels = warp(loop.take(images, rows).float() / 255, matrices)
        pixels = appearance(pixels, loop.recipe.augmentation, generator)
        target = warp_points(loop.take(landmarks, rows), matrices, flip)
        for batch in loop.batches(loop.own(pixels), loop.own(target)):
            losses.append(loop.step(loss_of, batch, loop.progress.epoch + len(losses) / steps))
            tick()
    return loop.mean_loss(losses)


@torch.no_grad()
def validate(
    network: LandmarkNetwork, images: Tensor, landmarks: Tensor, normalise: Callable[[Tensor], Tensor], device: Device
) -> dict[str, float]:
    """Point errors over face size on unchanged faces: mean, median and 90th percentile."""
    network.eval()
    errors = []
    size = at_once(images.shape[-1], device)
    for faces, points in zip(torch.split(images, size), torch.split(landmarks, size), strict=True):
        pixels = normalise(faces.to(device.name).float() / 255)
        errors.append(point_error(network.landmarks(pixels), points.to(device.name)))
    values = torch.cat(errors).cpu()
    return {"mean": float(values.mean()), "median": float(values.median()), "p90": float(values.quantile(0.9))}
