"""Training recipes: every choice that shapes a run, frozen and stored with its results.

What is not said on the command line comes from a file (:mod:`poster_edge.train.recipe_file`).  No torch here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from poster_edge.errors import UsageError
from poster_edge.models.base_config import ModelConfig
from poster_edge.train.limits import check, option

OPTIMIZERS = ("adamw", "adam")
SCHEDULES = ("cosine", "plateau", "exponential")
SAMPLINGS = ("shuffle", "balanced")


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image.

    Attributes:
        flip: probability of mirroring.
        rotate_deg: largest rotation either way.
        scale: largest relative zoom either way (0.2: 0.8 to 1.25).
        shift: largest shift either way, as a fraction of the side.
        contrast: largest relative change of contrast.
        brightness: largest change of brightness, as a fraction of the full range.
        noise: probability of adding Gaussian noise.
        noise_std: standard deviation of that noise, as a fraction of the full range.
        noise_side: side of the grid that the noise is drawn on before it is spread over the image; 0: each pixel.
        erase: probability of painting over a random rectangle.
        erase_area: smallest and largest area of that rectangle.
        erase_aspect: its longer side over its shorter one, at most.
        erase_fill: "noise", or "mean": the colour that normalisation turns to 0.
        erase_inside: the whole rectangle lies in the image, not only its centre.
    """

    flip: float = option(0.5, low=0, high=1)
    rotate_deg: float = option(10.0, low=0, high=180)
    scale: float = option(0.12, low=0)
    shift: float = option(0.06, low=0, high=1)
    contrast: float = option(0.2, low=0, high=1)
    brightness: float = option(0.1, low=0, high=1)
    noise: float = option(0.0, low=0, high=1)
    noise_std: float = option(0.0, low=0, high=1)
    noise_side: int = option(0, low=0)
    erase: float = option(0.2, low=0, high=1)
    erase_area: tuple[float, float] = (0.02, 0.2)
    erase_aspect: float = option(3.0, low=1)
    erase_fill: str = option("noise", choices=("noise", "mean"))
    erase_inside: bool = False

    def __post_init__(self) -> None:
        check(self)
        low, high = self.erase_area
        if not 0 < low <= high <= 1:
            raise UsageError(f"erase_area is {low:g} to {high:g}, expected two rising fractions above 0, at most 1")

    def at_most(self, other: Augmentation) -> Augmentation:
        """The same, nothing in it stronger or more frequent than in ``other``."""
        return replace(self, **{name: min(getattr(self, name), getattr(other, name)) for name in _STRENGTHS})


#: Fields of :class:`Augmentation` that say how much or how often; at 0 an image stays as it is.
_STRENGTHS = ("flip", "rotate_deg", "scale", "shift", "contrast", "brightness", "noise", "erase")


#: "standard" learns fast; "strong" holds off overfitting in long runs and in second rounds (``--init``); "none"
#: shows every image as it is, which overfits soon.
AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(flip=0.0, rotate_deg=0.0, scale=0.0, shift=0.0, contrast=0.0, brightness=0.0, erase=0.0),
    "standard": Augmentation(),
    "strong": Augmentation(rotate_deg=15.0, scale=0.2, shift=0.08, contrast=0.3, brightness=0.15, erase=0.4),
}


@dataclass(frozen=True)
class LossTerm:
    """One cross-entropy of a sum of them.

    Attributes:
        weight: factor of its part of the loss.
        smoothing: share of its target that is spread over all classes.
    """

    weight: float = option(1.0, above=0)
    smoothing: float = option(0.0, low=0, below=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Recipe:
    """Training with one optimiser, one schedule, soft targets and averaged weights.

    The defaults are this project's own for poster-nano; the files of :mod:`poster_edge.train.recipe_file` have
    those of each network.

    Attributes:
        epochs: passes over the training split.
        warmup: epochs of linear warm-up; of a shorter run all.
        batch: images per optimiser step, all processes together.
        accumulate: equal parts that a batch is computed in, one after another, where memory is short.
        lr: peak learning rate.
        weight_decay: on matrices and kernels only; "adam" adds it to the gradient.
        label_smoothing: share of the target spread over all classes.
        loss: cross-entropies that are summed instead of one with ``label_smoothing``.
        ema_decay: of the averaged weights, which are what is evaluated and kept; 0: the latest weights.
        clip: largest global gradient norm; 0: any.
        sam_rho: radius of sharpness-aware minimisation around the optimiser; 0: none.
        sam_hold_norm: BatchNorm's statistics see the first of SAM's two passes only.
        mixup: alpha of the Beta distribution that image pairs are blended by; 0: no blending.
        cutmix: alpha of the Beta distribution of a rectangle's area that is taken from another image; 0: none.
            With both, each image is either blended or cut.
        cooldown: last epochs that see "standard" augmentation at most and no mixed pairs.
        teacher_weight: share of the target that the teachers' opinion has, where there are any.
        teacher_view: "augmented": teachers judge the very picture that is learned from; "plain": the unchanged
            image in their own size, once, before training.
        sampling: "shuffle": every image once; "balanced": with replacement, every class as often.
        early_stop: epochs without a better validation accuracy after which the run ends; 0: never.
        seed: of initialisation, order and augmentation.
        augmentation: see :class:`Augmentation`.
        colour: order of a colour image's channels, "rgb" or "bgr".
        drop_path: stochastic depth at the last stage instead of the network's own, where it has any.
        freeze_landmark_bn: hold the landmark stream's BatchNorm statistics too, not its weights alone.
        sync_norm: BatchNorm over the images of all processes, not of each.
        optimizer: "adamw" or "adam".
        schedule: "cosine"; "exponential": by ``factor`` each epoch; "plateau": by ``factor`` when the validation
            loss stops falling.
        patience: "plateau" only: epochs without a better loss that are let pass.
        factor: what "exponential" and "plateau" multiply the rate by.
    """

    epochs: int = option(40, low=1)
    warmup: float = option(2, low=0)
    batch: int = option(64, low=2)
    accumulate: int = option(1, low=1)
    lr: float = option(1.5e-3, above=0)
    weight_decay: float = option(0.05, low=0)
    label_smoothing: float = option(0.1, low=0, below=1)
    loss: tuple[LossTerm, ...] = ()
    ema_decay: float = option(0.999, low=0, below=1)
    clip: float = option(5.0, low=0)
    sam_rho: float = option(0.0, low=0)
    sam_hold_norm: bool = False
    mixup: float = option(0.0, low=0)
    cutmix: float = option(0.0, low=0)
    cooldown: int = option(0, low=0)
    teacher_weight: float = option(0.0, low=0, high=1)
    teacher_view: str = option("augmented", choices=("augmented", "plain"))
    sampling: str = option("shuffle", choices=SAMPLINGS)
    early_stop: int = option(0, low=0)
    seed: int = option(0, low=0)
    augmentation: Augmentation = Augmentation()
    colour: str = option("rgb", choices=("rgb", "bgr"))
    drop_path: float | None = option(None, low=0, below=1)
    freeze_landmark_bn: bool = True
    sync_norm: bool = True
    optimizer: str = option("adamw", choices=OPTIMIZERS)
    schedule: str = option("cosine", choices=SCHEDULES)
    patience: int = option(5, low=0)
    factor: float = option(0.1, above=0, high=1)

    def __post_init__(self) -> None:
        check(self)
        if self.batch % self.accumulate or self.batch // self.accumulate < 2:
            raise UsageError(
                f"accumulate is {self.accumulate}, expected a number that divides a batch of {self.batch} into equal "
                "parts of 2 or more"
            )


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


def recipe_for(config: ModelConfig) -> Recipe:
    """The default recipe of a network."""
    # The reader of recipes makes them, so it imports this module.
    from poster_edge.train.recipe_file import default_recipe

    return default_recipe(config).recipe


def learning_rate(recipe: Recipe, progress: float, *, falls: int = 0) -> float:
    """Learning rate after ``progress`` epochs.

    Linear warm-up; then a half cosine to 1 % of the peak, or steps: one each epoch for "exponential".

    Args:
        recipe: shapes the schedule.
        progress: epochs done, with a fraction.
        falls: "plateau" only: how often the rate has fallen so far.
    """
    warmup = min(recipe.warmup, recipe.epochs)
    if progress < warmup:
        return recipe.lr * max(progress / warmup, 0.01)
    if recipe.schedule == "plateau":
        return recipe.lr * recipe.factor**falls
    if recipe.schedule == "exponential":
        return recipe.lr * recipe.factor ** int(progress - warmup)
    share = (progress - warmup) / max(recipe.epochs - warmup, 1e-9)
    return recipe.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))
