"""Teachers judge the very pictures that are learned from; the last epochs cool down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from poster_edge.config import Preprocess
from poster_edge.errors import UsageError
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import ModelInfo, save_checkpoint
from poster_edge.models.config import model_config
from poster_edge.models.network import Network
from poster_edge.train import expression
from poster_edge.train.loop import Device, Loop
from poster_edge.train.normalise import Normalise
from poster_edge.train.recipe import AUGMENTATIONS, Recipe
from poster_edge.train.targets import smoothed
from poster_edge.train.teachers import Teachers

CLASSES = ("happy", "sad")
PLAIN = Preprocess(size=48, colour="gray", mean=(0.5,) * 3, std=(0.3,) * 3)
Batches = list[tuple[Tensor, ...]]


class Recorder(Loop):
    """A loop that keeps what it is given to learn from, and learns nothing."""

    def __init__(self, recipe: Recipe, epoch: int) -> None:
        torch.manual_seed(0)
        super().__init__(network(0), recipe, Device(), method="forward", side=48)
        self.progress.epoch = epoch
        self.seen: Batches = []

    def step(self, loss_of: Callable[..., Tensor], inputs: tuple[Tensor, ...], progress: float) -> Tensor:
        self.seen.append(inputs)
        return torch.zeros(())


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    return build_network(model_config("cf-dan-nano", num_classes=2)).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("teachers")
    for seed in (1, 2):
        save_checkpoint(
            folder / f"{seed}.safetensors",
            network(seed).state_dict(),
            ModelInfo("cf-dan-nano", CLASSES, PLAIN, "custom"),
        )
    return [folder / f"{seed}.safetensors" for seed in (1, 2)]


def asked(files: list[Path], *, classes: tuple[str, ...] = CLASSES, preprocess: Preprocess = PLAIN) -> Teachers:
    return Teachers(
        files, classes=classes, preprocess=preprocess, device=Device(), normalise=Normalise(preprocess, "cpu")
    )


def epoch_of(recipe: Recipe, *, epoch: int = 0, teachers: Teachers | None = None) -> Batches:
    """What an epoch learns from."""
    images = torch.randint(0, 256, (10, 1, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(10) % 2
    loop = Recorder(recipe, epoch)
    expression.train_epoch(
        loop,
        network(0),
        images,
        smoothed(labels, 2, recipe.label_smoothing),
        torch.arange(10),
        Normalise(PLAIN, "cpu"),
        lambda: None,
        labels=labels,
        teachers=teachers,
    )
    return loop.seen


def test_they_are_asked_together(files: list[Path]) -> None:
    pixels = torch.rand(3, 1, 48, 48)
    ready = ((pixels - 0.5) / 0.3).expand(3, 3, 48, 48)
    with torch.no_grad():
        expected = sum(network(seed)(ready).softmax(dim=1) for seed in (1, 2)) / 2
    torch.testing.assert_close(asked(files).judge(pixels), expected)


@pytest.mark.parametrize("mixup", [0.0, 0.4], ids=["plain", "mixed"])
def test_their_opinion_of_the_augmented_picture_joins_its_target(files: list[Path], mixup: float) -> None:
    recipe = Recipe(batch=4, mixup=mixup, teacher_weight=0.3)
    teachers = asked(files)
    alone, taught = epoch_of(recipe), epoch_of(recipe, teachers=teachers)
    assert len(alone) == len(taught) == 2
    for (pixels, target), (same, blended) in zip(alone, taught, strict=True):
        assert torch.equal(pixels, same)
        torch.testing.assert_close(blended, 0.7 * target + 0.3 * teachers.judge(pixels))
        assert not torch.allclose(blended, target)


def test_strangers_do_not_teach(files: list[Path]) -> None:
    with pytest.raises(UsageError, match="other classes or another preprocessing; it cannot teach"):
        asked(files, classes=("sad", "happy"))
    with pytest.raises(UsageError, match="it cannot teach"):
        asked(files, preprocess=Preprocess(size=48))


def test_the_last_epochs_are_unmixed_and_mild() -> None:
    hot = Recipe(epochs=5, batch=4, mixup=0.4, cutmix=1.0, augmentation=AUGMENTATIONS["strong"], cooldown=2)
    mild = Recipe(epochs=5, batch=4)
    for epoch, cool in ((2, False), (3, True), (4, True)):
        found, expected = epoch_of(hot, epoch=epoch), epoch_of(mild, epoch=epoch)
        same = [
            torch.equal(a, b) for one, two in zip(found, expected, strict=True) for a, b in zip(one, two, strict=True)
        ]
        assert all(same) if cool else not any(same)
