"""Teachers judge the very pictures that are learned from, fed as they learned; the last epochs cool down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from poster_edge.config import Preprocess
from poster_edge.data.faces import FaceSet
from poster_edge.data.preprocess import to_channels, to_input
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
from poster_edge.train.teachers import Teacher, Teachers, as_fed

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
    return Teachers(files, classes=classes, preprocess=preprocess, device=Device())


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
    for classes in (("happy", "fear"), ("happy", "sad", "fear"), ("happy",)):
        told = f"knows happy, sad, but this run learns {', '.join(classes)}; it cannot teach"
        with pytest.raises(UsageError, match=told):
            asked(files, classes=classes)


def test_classes_are_found_by_name(files: list[Path]) -> None:
    pixels = torch.rand(3, 1, 48, 48)
    turned = asked(files, classes=("Sadness", "happiness")).judge(pixels)
    assert torch.equal(turned, asked(files).judge(pixels).flip(1))


@pytest.mark.parametrize("run", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("own", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("size", [96, 48, 20])
def test_a_teacher_is_fed_as_it_learned(run: str, own: str, size: int) -> None:
    """Against the preparation that every command feeds it by, which works on whole numbers."""
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8), (48, 48))
    picture = cv2.cvtColor(smooth, cv2.COLOR_BGR2GRAY) if run == "gray" else smooth
    wanted = Preprocess(size=size, colour=own)
    channels = to_channels(picture, run)[:, :, : 1 if run == "gray" else 3]
    pixels = torch.from_numpy(channels.transpose(2, 0, 1).astype(np.float32) / 255)[None]
    found = Normalise(wanted, "cpu")(as_fed(pixels, run, wanted))
    whole = np.abs(found.numpy() - to_input([picture], wanted)) * min(wanted.std) * 255
    # Bilinear sampling in OpenCV skips pixels where torch looks at all of them.
    assert whole.max() < (1.6 if size >= 48 else 12)


def test_a_larger_teacher_of_other_colours_sees_plain_images_in_full(tmp_path: Path) -> None:
    """A network of 96 px in BGR teaches one of 48 px in gray: it must be asked as ``eval`` would ask it."""
    torch.manual_seed(0)
    config = replace(model_config("cf-dan-nano", num_classes=2), input_size=96)
    large, own = build_network(config).eval(), Preprocess(size=96, colour="bgr")
    assert tuple(large(torch.zeros(1, 3, 96, 96)).shape) == (1, 2)
    crops = np.random.default_rng(1).integers(0, 256, (5, 120, 100, 3)).astype(np.uint8)
    faces = FaceSet("f", CLASSES, np.zeros(5, np.int64), lambda i: crops[i], np.full(5, "train"))
    teachers = asked([], preprocess=PLAIN)
    teachers.teachers.append(Teacher(large, own, Normalise(own, "cpu"), torch.arange(2)))
    rows = torch.tensor([0, 3])
    found = teachers.opinions(faces, rows, torch.from_numpy(faces.squares(range(5), 48, "gray")))
    with torch.no_grad():
        ready = torch.from_numpy(to_input(list(crops), own))
        expected = (large(ready).softmax(dim=1) + large(ready.flip(3)).softmax(dim=1)) / 2
    torch.testing.assert_close(found[rows], expected[rows], atol=1e-4, rtol=0)
    assert not found[[1, 2, 4]].any()


def test_opinions_do_not_depend_on_mirroring(files: list[Path]) -> None:
    images = torch.randint(0, 256, (5, 1, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    faces = FaceSet("f", CLASSES, np.zeros(5, np.int64), lambda i: images[i, 0].numpy(), np.full(5, "train"))
    teachers, rows = asked(files), torch.tensor([0, 3])
    ticks: list[None] = []
    plain = teachers.opinions(faces, rows, images, lambda: ticks.append(None))
    assert len(ticks) == teachers.pieces(len(rows)) == len(files)
    torch.testing.assert_close(plain, teachers.opinions(faces, rows, images.flip(3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain[rows].sum(dim=1), torch.ones(2))
    assert not plain[[1, 2, 4]].any()


def test_the_last_epochs_are_unmixed_and_mild() -> None:
    hot = Recipe(epochs=5, batch=4, mixup=0.4, cutmix=1.0, augmentation=AUGMENTATIONS["strong"], cooldown=2)
    mild = Recipe(epochs=5, batch=4)
    for epoch, cool in ((2, False), (3, True), (4, True)):
        found, expected = epoch_of(hot, epoch=epoch), epoch_of(mild, epoch=epoch)
        same = [
            torch.equal(a, b) for one, two in zip(found, expected, strict=True) for a, b in zip(one, two, strict=True)
        ]
        assert all(same) if cool else not any(same)
