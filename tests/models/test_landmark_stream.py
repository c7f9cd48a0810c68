"""The landmark stream finds points in the images that the whole network is given, whatever it sees of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from poster_edge.models.base_config import ModelConfig
from poster_edge.models.build import build_network
from poster_edge.models.config import model_config
from poster_edge.models.network import WithLandmarks
from poster_edge.models.poster_config import PosterConfig
from poster_edge.train import landmarks
from poster_edge.train.loop import Device, Loop
from poster_edge.train.recipe import AUGMENTATIONS, LANDMARK_RECIPE

NONE = AUGMENTATIONS["none"]


def halved() -> PosterConfig:
    """poster-nano on every second pixel of 96, as the full POSTER on every second of 224."""
    config = model_config("poster-nano")
    assert isinstance(config, PosterConfig)
    return replace(config, input_size=96, subsample=2)


@pytest.mark.parametrize(
    "config",
    [model_config("poster-t"), model_config("poster-t@landmark-only"), model_config("poster-nano"), halved()],
    ids=lambda c: f"{c.variant}-{c.input_size}",
)
def test_points_of_whole_images(config: ModelConfig) -> None:
    network = build_network(config).eval()
    assert isinstance(network, WithLandmarks)
    side = config.input_size
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        found = network.landmark_stream.landmarks(images)
        assert tuple(found.shape) == (2, 68, 2)
        # Of what the stream does not see nothing may depend.
        images[:, :, 1::2] = 0
        same = torch.equal(network.landmark_stream.landmarks(images), found)
    assert same == (side > 48)


def test_it_learns_on_images_of_the_networks_size() -> None:
    torch.manual_seed(0)
    network = build_network(halved())
    assert isinstance(network, WithLandmarks)
    stream, recipe = network.landmark_stream, replace(LANDMARK_RECIPE, epochs=4, batch=8, lr=0.05, augmentation=NONE)
    images = torch.randint(0, 256, (24, 1, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    points = torch.rand(1, 68, 2).repeat(24, 1, 1) * 0.5 + 0.25
    loop = Loop(stream, recipe, Device(), method="landmarks", side=96)
    losses = []
    for epoch in range(recipe.epochs):
        loop.progress.epoch = epoch
        losses.append(
            landmarks.train_epoch(
                loop, stream, images, points, torch.arange(24), lambda x: x.expand(-1, 3, -1, -1), lambda: None
            )
        )
    assert losses[-1] < 0.8 * losses[0]
