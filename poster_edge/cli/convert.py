"""``poster-edge convert``: published POSTER pickles to safetensors with their conventions."""

from __future__ import annotations

from pathlib import Path

import click

from poster_edge.labels import LABEL_SETS


@click.command(name="convert")
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="Published .pth file.")
@click.option(
    "--dataset",
    required=True,
    type=click.Choice(list(LABEL_SETS)),
    help="Data set it was trained on: fixes label order, colour order and preprocessing.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New .safetensors file.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
def command(*, checkpoint: Path, dataset: str, output: Path, force: bool) -> None:
    """Turn a published POSTER checkpoint into safetensors.

    The file is read without running any code in it. Variant and class count are found from its
    entries; a missing, unexpected or misshapen entry is an error that names it.
    """
    from poster_edge.cli import console
    from poster_edge.errors import UsageError
    from poster_edge.labels import label_set
    from poster_edge.optional import require

    for package in ("torch", "safetensors"):
        require(package, purpose="convert a checkpoint")
    from poster_edge.models.checkpoint import save_checkpoint
    from poster_edge.models.network import live_parameters
    from poster_edge.models.official import load_official

    if output.suffix != ".safetensors":
        raise UsageError(f"-o {output}: expected a file name that ends in .safetensors")
    if output.exists() and not force:
        raise UsageError(f"{output} exists; pass --force to replace it")
    model, info = load_official(checkpoint, label_set(dataset))
    save_checkpoint(output, model.state_dict(), info)
    total = sum(p.numel() for p in model.parameters())
    console.message(
        f"{output}: {info.model}, {len(info.classes)} classes ({', '.join(info.classes)}), "
        f"{total:,} parameters of which {live_parameters(model):,} take part in inference"
    )
