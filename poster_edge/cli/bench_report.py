"""What ``poster-edge bench`` prints and writes: tables, the mark of a noisy run, JSON, CSV, plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from poster_edge.bench.records import Answers, Group, Record, Row, missing
from poster_edge.cli import console
from poster_edge.errors import UsageError
from poster_edge.files import check_writable, write_atomic

_PLOTS = (".png", ".html")
_DASH = "–"
#: Columns from which on one table holds everything.
_WIDE = 125


def check_outputs(plots: Sequence[Path], *, json_path: str | None, csv_path: str | None, labelled: bool) -> None:
    """Refuse outputs that could not be written, before anything is measured.

    Raises:
        UsageError: says which.
        PosterEdgeError: its folder can be neither made nor written.
    """
    if json_path == csv_path == "-":
        raise UsageError("--json - and --csv - cannot share stdout; write one of them to a file")
    files = [Path(p) for p in (json_path, csv_path) if p is not None and p != "-"] + list(plots)
    if any(not p.name for p in files):
        raise UsageError("--json, --csv, --plot: expected a file's name")
    if twice := [p for p in files if files.count(p) > 1]:
        raise UsageError(f"{twice[0]} is named twice; each output needs a file of its own")
    check_writable(*files)
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
        for part in _tables(model, rows, noisy=group.noise.noisy, width=console.stdout.width):
            console.stdout.print(part)
        for line in missing(rows):
            console.stdout.print(Text(f"{_DASH} {line}", style="dim"))
        if any(r.energy for r in rows):
            console.stdout.print(_energy(rows))
        for r in rows:
            if r.stages:
                console.stdout.print(Text(f"{r.label}: {_stages(r)}", style="dim"))


def _tables(model: str, rows: Sequence[Row], *, noisy: bool, width: int) -> list[Table]:
    """One table where the terminal has room for it, else the times and below them the rest."""
    first = rows[0]
    what = "decoded frame to result" if first.scope == "frame" else f"model alone, batch {first.batch}"
    threads = f", {first.threads} thread{'s' * (first.threads > 1)}" if first.threads else ""
    title = f"{'NOISY  ' if noisy else ''}{model}, {what}{threads}, ms, {first.rounds} rounds in turns"
    judged = any(r.answers for r in rows)
    times = ["p50", "p90", "p90 est.", "p99", "per s"]
    rest = [f"x {first.baseline}", "RSS MiB", "MB", *(["accuracy %", "agrees"] if judged else [])]
    cells = [(_times(r), _rest(r, judged=judged)) for r in rows]
    if width >= _WIDE:
        both = [[r.label, *a, *b] for r, (a, b) in zip(rows, cells, strict=True)]
        return [console.table(title, ["", *times, *rest], both)]
    upper = [[r.label, *a] for r, (a, _) in zip(rows, cells, strict=True)]
    lower = [[r.label, *b] for r, (_, b) in zip(rows, cells, strict=True)]
    return [console.table(title, ["", *times], upper), console.table("", ["", *rest], lower)]


def _energy(rows: Sequence[Row]) -> Table:
    """J per face of each candidate; the rails that were added up are in the title, doubts in the last column."""
    found = [(r.label, r.energy) for r in rows if r.energy]
    cells = [
        [label, figure(e["gross_joules_per_face"]), figure(e["net_joules_per_face"]), "; ".join(e["notes"])]
        for label, e in found
    ]
    return console.table(f"J per face, {found[0][1]['total']}", ["", "gross", "above rest", ""], cells)


def _times(row: Row) -> list[str]:
    times = row.times
    values = (times.p50_ms, times.p90_ms, times.p90_estimate_ms, times.p99_ms, times.per_second)
    return [figure(v) for v in values]


def _rest(row: Row, *, judged: bool) -> list[str]:
    ratio = row.ratio
    cells = [
        "1" if ratio is None else f"{figure(ratio.value)} ({figure(ratio.low)}–{figure(ratio.high)})",
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
    right = _DASH if found.accuracy is None or half is None else f"{100 * found.accuracy:.2f} ±{100 * half:.2f}"
    return [right, f"{found.agreement:.1%}" if found.named > 1 else _DASH]


def _stages(row: Row) -> str:
    parts = [f"{name} {figure(ms)}" for name, ms in row.stages.items() if name != "faces"]
    return f"{', '.join(parts)} ms; {row.stages['faces']:.1f} faces a frame"
