"""What a run makes ready before its first step: the network's settings, its preprocessing, tables in GPU memory."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from poster_edge.config import Preprocess
from poster_edge.data.faces import FaceSet
from poster_edge.errors import UsageError
from poster_edge.labels import LABEL_SETS, Framing
from poster_edge.models.base_config import ModelConfig
from poster_edge.models.config import model_config
from poster_edge.models.poster_config import PosterConfig
from poster_edge.train.loop import Device
from poster_edge.train.recipe import Recipe

#: Mean and standard deviation of the pixels of FER2013's training split, to two digits.
GRAY_MEAN, GRAY_STD = 0.51, 0.31
#: Of one forward pass: 167 images of 224 x 224, with which the full POSTER takes a few gigabytes.
_FORWARD_PIXELS = 1 << 23


def network_config(name: str, num_classes: int, recipe: Recipe) -> ModelConfig:
    """Configuration of the network to train: the named one, with what the recipe changes for training.

    Raises:
        UsageError: unknown name, or the recipe asks for stochastic depth that the network has not.
    """
    config = model_config(name, num_classes=num_classes)
    if recipe.drop_path is None:
        return config
    if not isinstance(config, PosterConfig):
        raise UsageError(f"{name} has no stochastic depth: leave drop_path out of its recipe")
    return replace(config, drop_path=recipe.drop_path)


def preprocess_for(faces: FaceSet, size: int, recipe: Recipe) -> Preprocess:
    """How these faces are fed: ImageNet's mean and deviation in the recipe's colour order, or gray as gray."""
    framing = LABEL_SETS[faces.dataset].framing if faces.dataset in LABEL_SETS else Framing()
    plain = Preprocess(size=size, colour=recipe.colour, margin=framing.margin, shift_y=framing.shift_y)
    if not faces.is_gray:
        return plain
    return replace(plain, colour="gray", mean=(GRAY_MEAN,) * 3, std=(GRAY_STD,) * 3)


def at_once(side: int, device: Device) -> int:
    """Images of one forward pass without gradients: fewer where they are large, as small GPUs need."""
    return max(1, min(1024 if device.is_cuda else 256, _FORWARD_PIXELS // side**2))


def resident(table: Tensor, device: Device) -> Tensor:
    """The table in a GPU's memory when it takes at most a quarter of what is free there, else where it is."""
    if device.is_cuda and table.nbytes < torch.cuda.mem_get_info(device.name)[0] / 4:
        return table.to(device.name)
    return table
