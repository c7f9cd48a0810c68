"""``poster-edge doctor``: what is here, what is missing, what to install."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(*, as_json: bool) -> None:
    """Check the environment.

    Exit code 0 when 'poster-edge run' can work on a photo, else 4.
    """
    from rich.text import Text

    from poster_edge.cli import console
    from poster_edge.cli.checks import all_checks
    from poster_edge.errors import UnavailableError

    checks = all_checks()
    if as_json:
        click.echo(json.dumps([asdict(c) for c in checks], indent=1))
    else:
        styles = {"ok": "green", "absent": "yellow", "broken": "red"}
        rows = [[c.name, Text(c.state, style=styles[c.state]), c.found, c.remedy] for c in checks]
        out = console.table("poster-edge doctor", ["part", "state", "found", "what to do"], rows)
        for column in out.columns:
            column.justify, column.overflow = "left", "fold"
        console.stdout.print(out)
    broken = [c.name for c in checks if c.state == "broken"]
    if broken:
        raise UnavailableError(f"'poster-edge run' cannot work here: {', '.join(broken)} (see above)")
