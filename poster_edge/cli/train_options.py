"""Options of ``poster-edge train``: what changes a recipe, what to start from, how to list recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _added(command: _Command, options: tuple[Callable[[_Command], _Command], ...]) -> _Command:
    for option in reversed(options):
        command = option(command)
    return command


def recipe_options(command: _Command) -> _Command:
    """Add ``--recipe`` and the options that change a recipe: names of its fields, without a default of their own."""
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
            click.option("--epochs", type=int, help="Epochs of expression training."),
            click.option("--batch", type=int, help="Images per step, all processes together."),
            click.option("--accumulate", type=int, help="Parts to compute a batch in, to save memory."),
            click.option("--lr", type=float, help="Peak learning rate."),
            click.option("--warmup", type=float, help="Epochs over which the learning rate rises."),
            click.option("--optimizer", type=click.Choice(["adamw", "adam"]), help="What takes the steps."),
            click.option("--sam-rho", type=float, help="Radius of sharpness-aware minimisation; 0: none."),
            click.option(
                "--schedule",
                type=click.Choice(["cosine", "plateau", "exponential"]),
                help="How the rate falls: a cosine, when the validation loss stops falling, each epoch.",
            ),
            click.option("--weight-decay", type=float, help="Pull of weights towards 0."),
            click.option(
                "--label-smoothing",
                type=float,
                help="Share of a target spread over all classes, in place of the recipe's loss.",
            ),
            click.option(
                "--augmentation",
                type=click.Choice(["none", "standard", "strong"]),
                help="standard learns fast; strong holds off overfitting in long runs; none: images as they are.",
            ),
            click.option("--mixup", type=float, help="Blend image pairs, shares from Beta(A, A); 0: never."),
            click.option("--cutmix", type=float, help="Paste rectangles, areas from Beta(A, A); 0: never."),
            click.option("--cooldown", type=int, help="Last epochs with standard augmentation and unmixed images."),
            click.option(
                "--sampling",
                type=click.Choice(["shuffle", "balanced"]),
                help="Each image once, or every class as often.",
            ),
            click.option("--early-stop", type=int, help="End after so many epochs without a better one."),
            click.option("--ema-decay", type=float, help="Decay of the averaged weights; 0: the latest."),
            click.option("--drop-path", type=float, help="Stochastic depth of POSTER's last stage."),
            click.option(
                "--freeze-landmark-bn/--no-freeze-landmark-bn",
                default=None,
                help="Hold the landmark stream's BatchNorm statistics too.",
            ),
            click.option(
                "--sync-norm/--no-sync-norm",
                default=None,
                help="Several processes: BatchNorm over the images of all, or of each.",
            ),
            click.option("--seed", type=int, help="Seed of everything random."),
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
                help="A .safetensors of the same classes whose opinion joins the labels; may be repeated.",
            ),
            click.option(
                "--teacher-weight",
                type=float,
                help="The teachers' share of the targets [default: the recipe's, or 0.3].",
            ),
            click.option(
                "--teacher-view",
                type=click.Choice(["augmented", "plain"]),
                help="Teachers judge each augmented picture, or every plain image once, in their own size (cheaper).",
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
            click.option(
                "--transfer",
                type=path,
                help="Start from what fits of a .safetensors of another model, or for other classes.",
            ),
            click.option("--trunk", type=path, help="torchvision's ResNet .pth to start the trunk from."),
            click.option("--image-weights", type=path, help="Published IR-50 .pth for POSTER's image stream."),
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

    recipes = [load_recipe(name) for name in recipe_names()]
    widths = [max(len(text) for text in column) for column in zip(*((r.name, r.model) for r in recipes), strict=True)]
    for recipe in recipes:
        console.stdout.print(f"{recipe.name:<{widths[0]}}  {recipe.model:<{widths[1]}}  {recipe.about}", markup=False)
    context.exit()
