"""``poster-edge eval``: a bundle measured on labelled faces, exactly as it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from poster_edge.cli.options import data_options, runtime_options
from poster_edge.config import DEFAULT_MODEL


@click.command(name="eval")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Bundle folder or packaged model.")
@data_options
@click.option(
    "--split",
    type=click.Choice(["auto", "validation", "test", "train", "all"]),
    default="auto",
    show_default=True,
    help="Which rows; auto: the validation split, else the test split, else all.",
)
@runtime_options
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Images per inference.")
@click.option("--json", "json_path", metavar="PATH", help="Write the report as JSON; '-' for stdout.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the confusion matrix into this PNG.")
@click.option("--tsne", type=click.Path(path_type=Path), help="Draw the features, by t-SNE, into this PNG.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Weights that the features of --tsne come from [default: the bundle's own].",
)
@click.option(
    "--subset",
    "subsets",
    multiple=True,
    metavar="NAME=FILE",
    help="Also measure the images that FILE lists, such as occlusion=rafdb_occlusion_list.txt; may be repeated.",
)
def command(
    *,
    model: str,
    data: Path,
    dataset: str | None,
    split: str,
    batch: int,
    json_path: str | None,
    plot: Path | None,
    tsne: Path | None,
    checkpoint: Path | None,
    subsets: tuple[str, ...],
    **asked: Any,
) -> None:
    """Measure a bundle on face crops with labels.

    The images are taken as crops: no detector runs. Labels are matched by class name, never by
    position; rows whose class the model does not know are left out and counted. Parameters and
    operations are given by the true count and by the POSTER paper's convention.
    """
    from poster_edge.cli import console
    from poster_edge.cli.eval_model import load_weights
    from poster_edge.cli.eval_report import Measured, open_subsets, predict, print_report, report_of, select
    from poster_edge.cli.eval_tsne import draw_tsne
    from poster_edge.data.faces import load_faces
    from poster_edge.errors import InputError
    from poster_edge.files import check_writable, write_atomic
    from poster_edge.optional import require
    from poster_edge.runtime.checkpoint_bundle import load_bundle_or_checkpoint
    from poster_edge.runtime.classifier import Classifier

    _check_pictures(plot, tsne, checkpoint)
    check_writable(*(Path(p) for p in (json_path, plot, tsne) if p and p != "-"))
    bundle = load_bundle_or_checkpoint(model, runtime=asked["runtime"])
    network = None
    if tsne is not None:
        require("sklearn.manifold", purpose="draw a t-SNE figure")
        network = load_weights(bundle, checkpoint, purpose="--tsne")
    faces = load_faces(data, dataset=dataset)
    rows = select(faces, bundle.manifest.classes, split)
    listed = open_subsets(subsets, faces)
    with (
        console.BuildBar() as bar,
        Classifier(bundle, notify=console.message, progress=bar, **asked) as classifier,
    ):
        logits, read, problems = predict(classifier, faces, rows.indices, batch)
    for problem in problems:
        console.message(f"error: {problem}")
    if not read.any():
        raise InputError(f"{data}: not one of {len(rows.indices)} images could be read")
    measured = Measured(rows, logits, read, classifier.temperature)
    report = report_of(measured, bundle, faces, listed)
    report |= {"data": str(data), "runtime": classifier.runtime, "precision": classifier.precision}
    if tsne is not None and network is not None:
        report["tsne"] = draw_tsne(tsne, *network, faces, measured)
    if json_path == "-":
        click.echo(json.dumps(report, indent=1))
    else:
        print_report(report, classifier.classes)
    if json_path and json_path != "-":
        write_atomic(Path(json_path), json.dumps(report, indent=1) + "\n")
    if plot is not None:
        from poster_edge.vision.confusion import draw_confusion, write_png

        write_png(plot, draw_confusion(report["confusion"], classifier.classes))
    if problems:
        raise InputError(f"{len(problems)} of {len(rows.indices)} images could not be read")


def _check_pictures(plot: Path | None, tsne: Path | None, checkpoint: Path | None) -> None:
    """Refuse what cannot be drawn before anything is measured."""
    from poster_edge.errors import UsageError

    for option, path in (("--plot", plot), ("--tsne", tsne)):
        if path is not None and path.suffix.lower() != ".png":
            raise UsageError(f"{option} {path}: expected a file name that ends in .png")
    if checkpoint is not None and tsne is None:
        raise UsageError("--checkpoint gives --tsne its features; without --tsne the model is --model")
