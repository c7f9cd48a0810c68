"""Options of ``poster-edge train``: what changes a recipe, what to start from, how to list recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Shown for options whose default depends on the recipe.
_RECIPE = "[default: the recipe's]"


def _added(command: _Command, options: tuple[Callable[[_Command], _Command], ...]) -> _Command:
    for option in reversed(options):
        command = option(command)
    return command


def recipe_options(command: _Command) -> _Command:
    """Add ``--recipe`` and the options that change a recipe; their names are those of its fields."""
    return _added(
        command,
        (
            click.option("--recipe", metavar="NAME|FILE.toml", help="How to train [default: the model's own]."),
            click.option(
                "--list-recipes",
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_list_recipes,
                help="Show the packaged recipes and end.",
            ),
            click.option("--epochs", type=int, help=f"Epochs of expression training. {_RECIPE}"),
            click.option("--batch", type=int, help=f"Images per step, all processes together. {_RECIPE}"),
            click.option("--accumulate", type=int, help=f"Parts to compute a batch in, to save memory. {_RECIPE}"),
            click.option("--lr", type=float, help=f"Peak learning rate. {_RECIPE}"),
            click.option("--warmup", type=float, help=f"Epochs over which the learning rate rises. {_RECIPE}"),
            click.option("--optimizer", type=click.Choice(["adamw", "adam"]), help=f"What takes the steps. {_RECIPE}"),
            click.option("--sam-rho", type=float, help=f"Radius of sharpness-aware minimisation; 0: none. {_RECIPE}"),
            click.option(
                "--schedule",
                type=click.Choice(["cosine", "plateau", "exponential"]),
                help=f"How the rate falls: a cosine, when the validation loss stops falling, each epoch. {_RECIPE}",
            ),
            click.option("--weight-decay", type=float, help=f"Pull of weights towards 0. {_RECIPE}"),
            click.option(
                "--label-smoothing",
                type=float,
                help=f"Share of a target spread over all classes, in place of the recipe's loss. {_RECIPE}",
            ),
            click.option(
                "--augmentation",
                type=click.Choice(["standard", "strong"]),
                help=f"standard learns fast; strong holds off overfitting in long runs. {_RECIPE}",
            ),
            click.option("--mixup", type=float, help=f"Blend image pairs, shares from Beta(A, A); 0: never. {_RECIPE}"),
            click.option("--cutmix", type=float, help=f"Paste rectangles, areas from Beta(A, A); 0: never. {_RECIPE}"),
            click.option(
                "--cooldown", type=int, help=f"Last epochs with standard augmentation and unmixed images. {_RECIPE}"
            ),
            click.option(
                "--sampling",
                type=click.Choice(["shuffle", "balanced"]),
                help=f"Each image once, or every class as often. {_RECIPE}",
            ),
            click.option(
                "--early-stop", type=int, help=f"End after so many epochs without a better one. {_RECIPE}"
            ),
            click.option("--ema-decay", type=float, help=f"Decay of the averaged weights; 0: the latest. {_RECIPE}"),
            click.option("--drop-path", type=float, help=f"Stochastic depth of POSTER's last stage. {_RECIPE}"),
            click.option(
                "--freeze-landmark-bn/--no-freeze-landmark-bn",
                default=None,
                help=f"Hold the landmark stream's BatchNorm statistics too. {_RECIPE}",
            ),
            click.option(
                "--sync-norm/--no-sync-norm",
                default=None,
                help=f"Several processes: BatchNorm over the images of all, or of each. {_RECIPE}",
            ),
            click.option("--seed", type=int, help=f"Seed of everything random. {_RECIPE}"),
        ),
    )


def teacher_options(command: _Command) -> _Command:
    """Add ``--teacher`` and how much and what it is asked."""
    return _added(
        command,
        (
            click.option(
                "--teacher",
                "teachers",
                type=click.Path(path_type=Path),
                multiple=True,
                help="A .safetensors whose opinion joins the labels; may be repeated.",
            ),
            click.option(
                "--teacher-weight", default=0.3, show_default=True, help="The teachers' share of the targets."
            ),
            click.option(
                "--teacher-view",
                type=click.Choice(["augmented", "plain"]),
                help=f"Teachers judge each augmented picture, or every plain image once (cheaper). {_RECIPE}",
            ),
        ),
    )


def weight_options(command: _Command) -> _Command:
    """Add the files that a run may start from."""
    path = click.Path(path_type=Path)
    return _added(
        command,
        (
            click.option("--init", type=path, help="Start from a .safetensors of the same model."),
            click.option("--trunk", type=path, help="torchvision's ResNet .pth to start the trunk from."),
            click.option(
                "--image-weights", type=path, help="Published IR-50 .pth for POSTER's image stream."
            ),
            click.option(
                "--landmark-weights", type=path, help="Published MobileFaceNet .pth.tar for POSTER's landmark stream."
            ),
        ),
    )


def _list_recipes(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from poster_edge.cli import console
    from poster_edge.train.recipe_file import load_recipe, recipe_names

    rows = [[r.name, r.model, r.about] for r in map(load_recipe, recipe_names())]
    console.stdout.print(console.table("Recipes", ["recipe", "model", "what it is"], rows))
    context.exit()
