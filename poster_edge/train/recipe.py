"""Training recipes: every choice that shapes a run, frozen and stored with its results."""

from __future__ import annotations

import math
from dataclasses import dataclass

from poster_edge.errors import UsageError
from poster_edge.models.base_config import ModelConfig
from poster_edge.models.cf_dan_config import CfDanConfig
from poster_edge.models.fer_vt_config import FerVtConfig
from poster_edge.models.poster_config import PosterConfig

OPTIMIZERS = ("adamw", "adam")
SCHEDULES = ("cosine", "plateau")


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
    """Training with one optimiser, one schedule, label smoothing and averaged weights.

    The defaults are this project's own; :data:`RECIPES` has those of each network.

    Attributes:
        epochs: passes over the training split.
        warmup: epochs of linear warm-up.
        batch: images per step.
        lr: peak learning rate.
        weight_decay: on matrices and kernels only; "adam" adds it to the gradient.
        label_smoothing: share of the target spread over all classes.
        ema_decay: of the averaged weights, which are what is evaluated and kept; 0: the latest weights.
        clip: largest global gradient norm.
        mixup: alpha of the Beta distribution that image pairs are blended by; 0: no blending.
        teacher_weight: share of the target that a teacher's opinion has, where there is one.
        seed: of initialisation, order and augmentation.
        augmentation: see :class:`Augmentation`.
        optimizer: "adamw" or "adam".
        schedule: "cosine", or "plateau": the rate falls when the validation loss stops falling.
        patience: "plateau" only: epochs without a better loss that are let pass.
        factor: "plateau" only: what the rate is then multiplied by.
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
    optimizer: str = "adamw"
    schedule: str = "cosine"
    patience: int = 5
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.lr <= 0:
            raise UsageError("training needs at least 1 epoch, a batch of 2 and a learning rate above 0")
        if self.optimizer not in OPTIMIZERS or self.schedule not in SCHEDULES:
            raise UsageError(
                f"optimiser '{self.optimizer}', schedule '{self.schedule}': expected one of {', '.join(OPTIMIZERS)} "
                f"and one of {', '.join(SCHEDULES)}"
            )
        if self.weight_decay < 0 or not 0 <= self.label_smoothing < 1:
            raise UsageError("the weight decay must be 0 or more, the label smoothing from 0 to below 1")
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


#: What 'poster-edge train' takes unless told otherwise, by the type of the network's configuration.
RECIPES: dict[type[ModelConfig], Recipe] = {
    PosterConfig: Recipe(),
    # FER-VT's own: Adam at 1e-3, batches of 32, a "learning factor 0.1" read as the plateau's.  The number of
    # epochs and the patience are not published; no weights are averaged.
    FerVtConfig: Recipe(
        epochs=100,
        warmup=0,
        batch=32,
        lr=1e-3,
        weight_decay=0.0,
        label_smoothing=0.1,
        ema_decay=0.0,
        optimizer="adam",
        schedule="plateau",
        patience=5,
        factor=0.1,
    ),
    # CF-DAN's own: AdamW, its decay, batches of 32 and plain cross-entropy.  Rate, schedule and number of epochs
    # (where its figures end) are not published; no weights are averaged.
    CfDanConfig: Recipe(epochs=40, warmup=0, batch=32, lr=1e-4, weight_decay=1e-4, label_smoothing=0.0, ema_decay=0.0),
}


def recipe_for(config: ModelConfig) -> Recipe:
    """The default recipe of a network."""
    return RECIPES[type(config)]


def learning_rate(recipe: Recipe, progress: float, *, falls: int = 0) -> float:
    """Learning rate after ``progress`` epochs.

    Linear warm-up; then a half cosine to 1 % of the peak, or, for "plateau", steps.

    Args:
        recipe: shapes the schedule.
        progress: epochs done, with a fraction.
        falls: "plateau" only: how often the rate has fallen so far.
    """
    if progress < recipe.warmup:
        return recipe.lr * max(progress / recipe.warmup, 0.01)
    if recipe.schedule == "plateau":
        return recipe.lr * recipe.factor**falls
    share = (progress - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1e-9)
    return recipe.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))
