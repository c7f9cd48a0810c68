"""``poster-edge explain``: which places of a face made the network choose its class, as pictures."""

from __future__ import annotations

import json
from pathlib import Path

import click

from poster_edge.cli.options import detector_options
from poster_edge.config import DEFAULT_MODEL


@click.command(name="explain")
@click.option("-s", "--source", required=True, metavar="SRC", help="Photo, folder of photos, or glob.")
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Packaged model or bundle that holds its PyTorch weights, or a .safetensors checkpoint; POSTER only.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the pictures.")
@click.option("--class", "class_", metavar="NAME", help="Explain this class [default: the most probable one].")
@click.option("--json", "json_path", metavar="PATH", help="Also write maps and shares as JSON; '-' for stdout.")
@detector_options
def command(
    *,
    source: str,
    model: str,
    output: Path,
    class_: str | None,
    json_path: str | None,
    detector: str,
    detector_model: Path | None,
    conf: float,
) -> None:
    """Draw attention relevance maps of both streams and all levels over every face in SRC.

    The method is that of Chefer et al. (2021), its rules fitted to POSTER's swapped queries and to its
    pyramid; docs/evaluation.md has the equations. A photo that cannot be read is named, the rest
    goes on, and the exit code is 1.
    """
    from poster_edge.cli import console
    from poster_edge.cli.explain_steps import Explainer, photos
    from poster_edge.files import check_place, check_writable, write_atomic
    from poster_edge.pipeline.filelist import FileList
    from poster_edge.vision.detect import choose_detector

    problems: list[str] = []

    def report(text: str) -> None:
        problems.append(text)
        console.message(f"error: {text}")

    files = photos(source)
    check_place(output / "any.png")
    check_writable(*(Path(p) for p in [json_path] if p and p != "-"))
    explainer = Explainer(model, output, class_)
    finder = choose_detector(detector, detector_model, conf=conf, notify=console.message)
    rows = []
    for frame in FileList(files, report=report):
        found = explainer.explain(frame, finder)
        rows += found
        for row in found if json_path != "-" else []:
            shares = ", ".join(f"{stream} {share:.0%}" for stream, share in row["shares"].items())
            click.echo(f"{row['source']}: {row['explained']} {row['probability']:.0%} ({shares}): {row['picture']}")
        if not found:
            console.message(f"{frame.source}: no face")
    if json_path == "-":
        click.echo(json.dumps(rows))
    elif json_path:
        write_atomic(Path(json_path), json.dumps(rows) + "\n")
    if problems:
        click.get_current_context().exit(1)
