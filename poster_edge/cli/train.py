"""``poster-edge train``: landmark pre-training, expression training, records in one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poster_edge.cli.options import data_options

if TYPE_CHECKING:
    from poster_edge.train.loop import Device
    from poster_edge.train.recipe import Recipe

#: Shown for options whose default depends on the model.
_RECIPE = "[default: the model's recipe]"


@click.command(name="train")
@click.option("--model", default="poster-nano", show_default=True, help="Configuration; see 'poster-edge models'.")
@data_options
@click.option(
    "--targets",
    type=click.Choice(["majority", "probability", "multi-label"]),
    default="majority",
    show_default=True,
    help="What FERPlus' votes become: one class, or a distribution to learn.",
)
@click.option("--landmarks", type=click.Path(path_type=Path), help=".npz of 68 landmarks per row; POSTER only.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder [default: runs/train/MODEL].")
@click.option("--init", type=click.Path(path_type=Path), help="Start from a .safetensors of the same model.")
@click.option("--trunk", type=click.Path(path_type=Path), help="torchvision's ResNet .pth to start the trunk from.")
@click.option("--epochs", type=int, help=f"Epochs of expression training. {_RECIPE}")
@click.option("--landmark-epochs", default=8, show_default=True, help="Epochs of landmark pre-training.")
@click.option("--batch", type=int, help=f"Images per step. {_RECIPE}")
@click.option("--lr", type=float, help=f"Peak learning rate. {_RECIPE}")
@click.option("--warmup", type=float, help=f"Epochs over which the learning rate rises. {_RECIPE}")
@click.option("--optimizer", type=click.Choice(["adamw", "adam"]), help=f"What takes the steps. {_RECIPE}")
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "plateau"]),
    help=f"How the learning rate falls: along a cosine, or when the validation loss stops falling. {_RECIPE}",
)
@click.option("--weight-decay", type=float, help=f"Pull of weights towards 0. {_RECIPE}")
@click.option("--label-smoothing", type=float, help=f"Share of a target spread over all classes. {_RECIPE}")
@click.option(
    "--augmentation",
    type=click.Choice(["standard", "strong"]),
    help=f"standard learns fast; strong holds off overfitting in long runs. {_RECIPE}",
)
@click.option("--mixup", type=float, help=f"Blend image pairs, shares from Beta(A, A); 0: never. {_RECIPE}")
@click.option("--cooldown", type=int, help=f"Last epochs with standard augmentation and unmixed images. {_RECIPE}")
@click.option(
    "--teacher",
    "teachers",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A .safetensors whose opinion joins the labels; may be repeated.",
)
@click.option("--teacher-weight", default=0.3, show_default=True, help="The teachers' share of the targets.")
@click.option(
    "--teacher-view",
    type=click.Choice(["augmented", "plain"]),
    help=f"Teachers judge each augmented picture, or every plain image once (cheaper). {_RECIPE}",
)
@click.option("--ema-decay", type=float, help=f"Decay of the averaged weights; 0: the latest. {_RECIPE}")
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Mixed precision; auto: bf16 on a GPU, fp32 on a CPU.",
)
@click.option("--cuda-graphs/--no-cuda-graphs", default=True, show_default=True, help="On a GPU: whole steps at once.")
@click.option("--resume", is_flag=True, help="Go on with the run in --output.")
@click.option("--stop-after", type=float, metavar="MINUTES", help="Stop at the next epoch's end; go on with --resume.")
def command(
    *,
    model: str,
    data: Path,
    dataset: str | None,
    targets: str,
    landmarks: Path | None,
    output: Path | None,
    init: Path | None,
    trunk: Path | None,
    epochs: int | None,
    landmark_epochs: int,
    batch: int | None,
    lr: float | None,
    warmup: float | None,
    optimizer: str | None,
    schedule: str | None,
    weight_decay: float | None,
    label_smoothing: float | None,
    augmentation: str | None,
    mixup: float | None,
    cooldown: int | None,
    teachers: tuple[Path, ...],
    teacher_weight: float,
    teacher_view: str | None,
    ema_decay: float | None,
    seed: int,
    device: str,
    precision: str,
    cuda_graphs: bool,
    resume: bool,
    stop_after: float | None,
) -> None:
    """Train MODEL on labelled faces.

    Where --data has a validation split, that split selects the epoch; otherwise a tenth of each
    class is held out. Training images whose pixels equal a held-out image's are dropped.
    Each network has a recipe of its own; the options below change it.
    """
    from poster_edge.cli import console
    from poster_edge.cli.train_report import ConsoleReporter
    from poster_edge.optional import require

    for package in ("torch", "safetensors"):
        require(package, purpose="train a model")
    from poster_edge.calib.temperature import fit_temperature
    from poster_edge.data.faces import load_faces
    from poster_edge.models.config import model_config
    from poster_edge.train.landmarks import load_landmarks
    from poster_edge.train.recipe import AUGMENTATIONS, recipe_for
    from poster_edge.train.run import TrainingRun

    recipe = _changed(
        recipe_for(model_config(model)),
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
        warmup=warmup,
        optimizer=optimizer,
        schedule=schedule,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        mixup=mixup,
        cooldown=cooldown,
        teacher_weight=teacher_weight if teachers else 0.0,
        teacher_view=teacher_view,
        ema_decay=ema_decay,
        augmentation=AUGMENTATIONS[augmentation] if augmentation else None,
    )
    faces = load_faces(data, dataset=dataset, targets=targets)
    points = load_landmarks(landmarks, faces) if landmarks else None
    folder = output or Path("runs/train") / model
    with ConsoleReporter() as reporter:
        run = TrainingRun(
            folder,
            model,
            faces,
            points,
            recipe=recipe,
            landmark_epochs=landmark_epochs,
            device=replace(_device(device, precision), graphs=cuda_graphs),
            reporter=reporter,
            init=init,
            trunk=trunk,
            teachers=teachers,
        )
        run.start(resume=resume)
        errors = run.train_landmarks()
        if not run.train_expression(stop_after_s=None if stop_after is None else stop_after * 60):
            console.message(f"stopped after {stop_after:g} minutes; go on with --resume -o {folder}")
            return
        summary = run.finish(fit_temperature, errors)
    whole, alone = summary["validation"], summary["validation_without_twins"]
    console.message(
        f"best epoch {summary['epoch']}: {whole['accuracy']:.2%} of {whole['count']} validation images "
        f"({alone['accuracy']:.2%} without {summary['validation_twins']} twins)\n{folder / 'best.safetensors'}"
    )


def _changed(recipe: Recipe, **options: Any) -> Recipe:
    """A recipe with the options that were given; a warm-up ends with the run at the latest."""
    recipe = replace(recipe, **{k: v for k, v in options.items() if v is not None})
    return replace(recipe, warmup=min(recipe.warmup, recipe.epochs))


def _device(name: str, precision: str) -> Device:
    """Resolve --device and --precision.

    Raises:
        UnavailableError: the device was asked for by name and is not there.
    """
    import torch

    from poster_edge.errors import UnavailableError, UsageError
    from poster_edge.train.loop import Device

    chosen = ("cuda:0" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if chosen != "cpu" and not chosen.startswith("cuda"):
        raise UsageError(f"--device {name}: expected auto, cpu or cuda:N")
    if chosen.startswith("cuda"):
        index = chosen.partition(":")[2] or "0"
        if not index.isdigit() or int(index) >= torch.cuda.device_count():
            raise UnavailableError(
                f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs; use --device cpu"
            )
    return Device(chosen, precision == "bf16" or (precision == "auto" and chosen != "cpu"))
