"""What ``poster-edge bench`` prints and writes: tables, the mark of a noisy run, JSON, CSV, plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import click
from rich.text import Text

from poster_edge.bench.records import Answers, Group, Record, Row, missing
from poster_edge.cli import console
from poster_edge.errors import UsageError
from poster_edge.files import write_atomic

_PLOTS = (".png", ".html")
_DASH = "–"


def check_outputs(plots: Sequence[Path], *, json_path: str | None, csv_path: str | None, labelled: bool) -> None:
    """Refuse outputs that could not be written, before anything is measured.

    Raises:
        UsageError: says which.
    """
    if json_path == csv_path == "-":
        raise UsageError("--json - and --csv - cannot share stdout; write one of them to a file")
    for path in plots:
        if path.suffix.lower() not in _PLOTS:
            raise UsageError(f"--plot {path}: expected a file name that ends in .png or .html")
        if not labelled:
            raise UsageError(f"--plot {path} shows latency against accuracy: add --data with labelled faces")


def deliver(record: Record, *, json_path: str | None, csv_path: str | None, plots: Sequence[Path]) -> None:
    """Print the tables, write the files, and say loudly when the run was disturbed."""
    if "-" not in (json_path, csv_path):
        console.stdout.print(record.environment.device)
        for group in record.groups:
            _print(group)
    for name, content in ((json_path, record.to_json()), (csv_path, record.to_csv())):
        if name == "-":
            click.echo(content, nl=False)
        elif name:
            write_atomic(Path(name), content)
    for path in plots:
        from poster_edge.cli.bench_plot import draw

        draw(path, record)
    for line in dict.fromkeys(u for g in record.groups for u in g.noise.unchecked):
        console.message(f"not checked: {line}")
    if record.reasons:
        console.message("NOISY: do not believe these figures, repeat the run on a quiet machine")
        for reason in record.reasons:
            console.message(f"NOISY: {reason}")


def _print(group: Group) -> None:
    for model in dict.fromkeys(r.model for r in group.rows):
        rows = [r for r in group.rows if r.model == model]
        console.stdout.print(_table(model, rows, noisy=group.noise.noisy))
        for line in missing(rows):
            console.stdout.print(Text(f"{_DASH} {line}", style="dim"))
        for r in rows:
            if r.stages:
                console.stdout.print(Text(f"{r.label}: {_stages(r)}", style="dim"))


def _table(model: str, rows: Sequence[Row], *, noisy: bool) -> object:
    first = rows[0]
    what = "decoded frame to result" if first.scope == "frame" else f"model alone, batch {first.batch}"
    threads = f", {first.threads} thread{'s' * (first.threads > 1)}" if first.threads else ""
    title = f"{'NOISY  ' if noisy else ''}{model}, {what}{threads}, ms, {first.rounds} rounds in turns"
    judged = any(r.answers for r in rows)
    columns = ["", "p50", "p90", "p90 est.", "p99", "per s", f"x {first.baseline}", "RSS MiB", "file MB"]
    columns += ["accuracy", "agrees"] if judged else []
    return console.table(title, columns, [_cells(r, judged=judged) for r in rows])


def _cells(row: Row, *, judged: bool) -> list[str]:
    times, ratio = row.times, row.ratio
    cells = [
        row.label,
        figure(times.p50_ms),
        figure(times.p90_ms),
        figure(times.p90_estimate_ms),
        figure(times.p99_ms),
        figure(times.per_second),
        "1" if ratio is None else f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
        _DASH if row.rss_mib is None else f"{row.rss_mib:.0f}",
        f"{row.file_mb:.1f}",
    ]
    return cells + (answers(row.answers) if judged else [])


def figure(value: float | None) -> str:
    """Three digits, or a dash."""
    if value is None:
        return _DASH
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"


def answers(found: Answers | None) -> list[str]:
    """Accuracy and agreement; a dash for what is not known or means nothing."""
    if found is None:
        return [_DASH, _DASH]
    half = found.accuracy_ci95
    right = _DASH if found.accuracy is None or half is None else f"{found.accuracy:.2%} ± {half:.2%}"
    return [right, f"{found.agreement:.2%}" if found.named > 1 else _DASH]


def _stages(row: Row) -> str:
    parts = [f"{name} {figure(ms)}" for name, ms in row.stages.items() if name != "faces"]
    return f"{', '.join(parts)} ms; {row.stages['faces']:.1f} faces a frame"
