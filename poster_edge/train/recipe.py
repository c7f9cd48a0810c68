"""Training recipes: every number that shapes a run, frozen and stored with its results."""

from __future__ import annotations

import math
from dataclasses import dataclass

from poster_edge.errors import UsageError


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image.

    Attributes:
        rotate_deg: largest rotation either way.
        scale: largest relative zoom either way (0.2: 0.8 to 1.25).
        shift: largest shift either way, as a fraction of the side.
        contrast: largest relative change of contrast.
        brightness: largest change of brightness, as a fraction of the full range.
        erase: probability of painting a random rectangle with noise.
        erase_area: smallest and largest area of that rectangle.
    """

    rotate_deg: float = 10.0
    scale: float = 0.12
    shift: float = 0.06
    contrast: float = 0.2
    brightness: float = 0.1
    erase: float = 0.2
    erase_area: tuple[float, float] = (0.02, 0.2)


#: "standard" learns fast; "strong" holds off overfitting in long runs and in second rounds (``--init``).
AUGMENTATIONS: dict[str, Augmentation] = {
    "standard": Augmentation(),
    "strong": Augmentation(rotate_deg=15.0, scale=0.2, shift=0.08, contrast=0.3, brightness=0.15, erase=0.4),
}


@dataclass(frozen=True)
class Recipe:
    """Expression training with AdamW, cosine schedule, label smoothing and averaged weights.

    Attributes:
        epochs: passes over the training split.
        warmup: epochs of linear warm-up.
        batch: images per step.
        lr: peak learning rate.
        weight_decay: on matrices and kernels only.
        label_smoothing: share of the target spread over all classes.
        ema_decay: of the averaged weights, which are what is evaluated and kept.
        clip: largest global gradient norm.
        mixup: alpha of the Beta distribution that image pairs are blended by; 0: no blending.
        teacher_weight: share of the target that a teacher's opinion has, where there is one.
        seed: of initialisation, order and augmentation.
        augmentation: see :class:`Augmentation`.
    """

    epochs: int = 40
    warmup: float = 2
    batch: int = 64
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    ema_decay: float = 0.999
    clip: float = 5.0
    mixup: float = 0.0
    teacher_weight: float = 0.0
    seed: int = 0
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.lr <= 0:
            raise UsageError("training needs at least 1 epoch, a batch of 2 and a learning rate above 0")
        if self.mixup < 0 or not 0 <= self.teacher_weight <= 1:
            raise UsageError("mixup must be 0 or more, the teacher's weight between 0 and 1")


#: Landmark pre-training: stronger geometry, because the points must follow it.
LANDMARK_RECIPE = Recipe(
    epochs=8,
    warmup=1,
    batch=128,
    lr=4e-3,
    label_smoothing=0.0,
    weight_decay=0.01,
    ema_decay=0.998,
    augmentation=Augmentation(rotate_deg=25.0, scale=0.3, shift=0.12, contrast=0.3, brightness=0.15, erase=0.2),
)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Learning rate after ``progress`` epochs: linear warm-up, then a half cosine to 1 % of the peak."""
    if progress < recipe.warmup:
        return recipe.lr * max(progress / recipe.warmup, 0.01)
    share = (progress - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1e-9)
    return recipe.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))
