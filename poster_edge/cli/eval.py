"""``poster-edge eval``: a bundle measured on labelled faces, exactly as it runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from poster_edge.cli.options import data_options, runtime_options


@click.command(name="eval")
@click.option("--model", default="poster-nano", show_default=True, help="Bundle folder or packaged model.")
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
def command(
    *,
    model: str,
    data: Path,
    dataset: str | None,
    split: str,
    runtime: str,
    precision: str,
    device: str,
    threads: int | None,
    trust_engine: bool,
    kernels: str | None,
    cuda_graph: bool,
    batch: int,
    json_path: str | None,
    plot: Path | None,
) -> None:
    """Measure a bundle on face crops with labels.

    The images are taken as crops: no detector runs. Labels are matched by class name, never by
    position; rows whose class the model does not know are left out and counted.
    """
    from poster_edge.cli import console
    from poster_edge.cli.eval_report import predict, print_report, select
    from poster_edge.data.faces import load_faces
    from poster_edge.errors import InputError, UsageError
    from poster_edge.files import write_atomic
    from poster_edge.runtime.checkpoint_bundle import load_bundle_or_checkpoint
    from poster_edge.runtime.classifier import Classifier
    from poster_edge.train.metrics import evaluate

    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: expected a file name that ends in .png")
    bundle = load_bundle_or_checkpoint(model, runtime=runtime)
    faces = load_faces(data, dataset=dataset)
    rows = select(faces, bundle.manifest.classes, split)
    with (
        console.BuildBar() as bar,
        Classifier(
            bundle,
            runtime=runtime,
            precision=precision,
            device=device,
            threads=threads,
            trust_engine=trust_engine,
            kernels=kernels,
            cuda_graph=cuda_graph,
            notify=console.message,
            progress=bar,
        ) as classifier,
    ):
        logits, read, problems = predict(classifier, faces, rows.indices, batch)
    for problem in problems:
        console.message(f"error: {problem}")
    if not read.any():
        raise InputError(f"{data}: not one of {len(rows.indices)} images could be read")
    labels, temperature = rows.labels[read], classifier.temperature
    metrics = evaluate(logits, labels, classifier.classes, temperature=temperature)
    report = {
        "model": bundle.manifest.model,
        "bundle": str(bundle.folder),
        "data": str(data),
        "dataset": faces.dataset,
        "split": rows.split,
        "runtime": classifier.runtime,
        "precision": classifier.precision,
        "temperature": temperature,
        "unknown_class": rows.unknown,
        "unreadable": len(problems),
        **metrics.to_dict(),
    }
    alone = ~rows.twins[read]
    if not alone.all():
        report["without_twins"] = evaluate(
            logits[alone], labels[alone], classifier.classes, temperature=temperature
        ).to_dict()
    if json_path == "-":
        click.echo(json.dumps(report, indent=1))
    else:
        print_report(report, classifier.classes)
    if json_path and json_path != "-":
        write_atomic(Path(json_path), json.dumps(report, indent=1) + "\n")
    if plot is not None:
        from poster_edge.vision.confusion import draw_confusion, write_png

        write_png(plot, draw_confusion(metrics.confusion, classifier.classes))
    if problems:
        raise InputError(f"{len(problems)} of {len(rows.indices)} images could not be read")
