"""``poster-edge models``: every model with its parameters, FLOPs, input, data set and accuracy."""

from __future__ import annotations

import json

import click


@click.command(name="models")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(*, as_json: bool) -> None:
    """List the models.

    FLOPs count 2 per multiply-add. "packaged" models run at once; the others need weights.
    """
    from poster_edge.cli import console
    from poster_edge.models.registry import REGISTRY
    from poster_edge.runtime.bundle import zoo_names

    packaged = zoo_names()
    if as_json:
        rows = [
            {**vars(f), "input_size": f.input_size, "description": f.description, "packaged": f.name in packaged}
            for f in REGISTRY.values()
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    columns = ["model", "network", "input", "parameters", "live", "GFLOPs", "data set", "accuracy", "weights"]
    console.stdout.print(
        console.table(
            "Models",
            columns,
            [
                [
                    f.name,
                    f.description,
                    f"{f.input_size} px",
                    f"{f.parameters / 1e6:.2f} M",
                    f"{f.live_parameters / 1e6:.2f} M",
                    f"{f.flops / 1e9:.3g}",
                    f.trained_on,
                    f.accuracy,
                    f.weights,
                ]
                for f in REGISTRY.values()
            ],
        )
    )
