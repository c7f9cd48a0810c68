"""``poster-edge export``: a model to ONNX, compared with PyTorch on real faces, packed as a bundle."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="export")
@click.option("--model", help="Name of a model; its packaged weights, unless --random-weights.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help=".safetensors of 'train' or 'convert'.")
@click.option("--random-weights", is_flag=True, help="Untrained weights, to measure speed: its labels mean nothing.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Bundle folder to write.")
@click.option("--name", help="Name of the bundle's model in messages [default: the configuration's].")
@click.option("--data", type=click.Path(path_type=Path), help="Faces to compare on [default: the packaged photos].")
@click.option("--compare", "images", default=64, show_default=True, help="How many of --data to compare on.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
def command(
    *,
    model: str | None,
    checkpoint: Path | None,
    random_weights: bool,
    output: Path,
    name: str | None,
    data: Path | None,
    images: int,
    force: bool,
) -> None:
    """Export a model to ONNX and pack it with its manifest and model card.

    The graph has a dynamic batch, no BatchNorm and no unused weights. It is checked by ONNX and
    compared with PyTorch; when the two differ nothing is written and the exit code is 3.
    """
    from poster_edge.cli import console
    from poster_edge.errors import UsageError
    from poster_edge.optional import require

    if (model is None) == (checkpoint is None):
        raise UsageError("export needs either --model or --checkpoint")
    if random_weights and checkpoint is not None:
        raise UsageError("--random-weights goes with --model, not with --checkpoint")
    for package in ("onnx", "onnxscript", "torch", "safetensors"):
        require(package, purpose="export a model")
    from poster_edge.cli.export_steps import comparison_inputs, load_source, pack
    from poster_edge.runtime.bundle import check_target

    check_target(output, force=force)
    network, info = load_source(model, checkpoint, random_weights=random_weights)
    batches = comparison_inputs(info.preprocess, data, images)
    bundle, parity = pack(output, network, info, batches, name=name or info.model, force=force)
    size = sum(a.bytes for a in bundle.manifest.artefacts.values())
    console.message(f"compared with PyTorch: {parity}")
    console.message(
        f"{bundle.folder}: {bundle.manifest.model}, {size / 1e6:.1f} MB; try it: "
        f"poster-edge run --model {bundle.folder} --source PHOTO"
    )
