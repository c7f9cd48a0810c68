"""``poster-edge convert``: published POSTER pickles to safetensors with their conventions; any checkpoint to FP16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poster_edge.labels import LABEL_SETS

if TYPE_CHECKING:
    from poster_edge.models.checkpoint import ModelInfo
    from poster_edge.models.network import Network


@click.command(name="convert")
@click.option(
    "--checkpoint",
    required=True,
    type=click.Path(path_type=Path),
    help="Published .pth file; with --half also a .safetensors of ours.",
)
@click.option(
    "--dataset",
    type=click.Choice(list(LABEL_SETS)),
    help="Data set it was trained on: fixes label order, colour order and preprocessing. A .safetensors knows it.",
)
@click.option(
    "--half", is_flag=True, help="Round the weights to FP16: half the size; they compute in float32 as before."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New .safetensors file.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
def command(*, checkpoint: Path, dataset: str | None, half: bool, output: Path, force: bool) -> None:
    """Turn a published POSTER checkpoint into safetensors.

    The file is read without running any code in it. Variant and class count are found from its
    entries; a missing, unexpected or misshapen entry is an error that names it.
    """
    from poster_edge.cli import console
    from poster_edge.errors import UsageError
    from poster_edge.optional import require

    ours = checkpoint.suffix == ".safetensors"
    if ours and (dataset is not None or not half):
        raise UsageError(f"{checkpoint} is no published .pth: of a .safetensors, --half alone makes another file")
    if not ours and dataset is None:
        raise UsageError("--dataset: a published checkpoint does not say what it was trained on")
    for package in ("torch", "safetensors"):
        require(package, purpose="convert a checkpoint")
    from poster_edge.models.checkpoint import save_checkpoint
    from poster_edge.models.half import to_half
    from poster_edge.models.network import live_parameters

    if output.suffix != ".safetensors":
        raise UsageError(f"-o {output}: expected a file name that ends in .safetensors")
    if output.exists() and not force:
        raise UsageError(f"{output} exists; pass --force to replace it")
    model, info = _load(checkpoint, dataset)
    state, change = model.state_dict(), 0.0
    if half:
        state, change = to_half(state)
        # Figures of a training are of the weights that it ended with.
        info = replace(info, training={**info.training, "rounded_to": "fp16"} if info.training else {})
    save_checkpoint(output, state, info)
    total = sum(p.numel() for p in model.parameters())
    console.message(
        f"{output}: {info.model}, {len(info.classes)} classes ({', '.join(info.classes)}), "
        f"{total:,} parameters of which {live_parameters(model):,} take part in inference"
        + (f"; in FP16, changed by at most {change:.1e} of a tensor's largest value" if half else "")
    )


def _load(checkpoint: Path, dataset: str | None) -> tuple[Network, ModelInfo]:
    """A checkpoint of ours, or with a data set a published one."""
    from poster_edge.labels import label_set
    from poster_edge.models.checkpoint import load_model
    from poster_edge.models.official import load_official

    return load_model(checkpoint) if dataset is None else load_official(checkpoint, label_set(dataset))
