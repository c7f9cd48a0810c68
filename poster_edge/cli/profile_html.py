"""The page of ``poster-edge profile --html``: one file that needs no script and fetches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from poster_edge.bench.energy import EnergyReport
from poster_edge.bench.layers import Layer, LayerProfile
from poster_edge.bench.profiling import Profile, TargetBounds
from poster_edge.cli.profile_plots import roofline, stage_bar
from poster_edge.cli.profile_terminal import ASSUMED, by_kind, figures_of, micro, ms_of, named, precision_of
from poster_edge.cli.report_html import STYLE, escape, figure, figures, items, section
from poster_edge.cli.report_plots import Bar, bar_plot, shortened
from poster_edge.files import write_atomic

#: Layers in the table and the bars, slowest first.
TOP_TABLE, TOP_BARS = 40, 16

#: Okabe and Ito's colours, one for each stage; names and figures stand beside them.
_STAGES = {
    "capture": "#999",
    "decode": "#e69f00",
    "detect": "#0072b2",
    "align": "#d6c400",
    "preprocess": "#009e73",
    "copy": "#666",
    "infer": "#d55e00",
    "post": "#cc79a7",
    "draw": "#56b4e9",
}
_OWN_STYLE = (
    "\n".join(
        f".plot .stage.{name} {{ fill: {colour}; }} .key.stage.{name} {{ background: {colour}; }}"
        for name, colour in _STAGES.items()
    )
    + """
.plot .layer { fill: var(--main); fill-opacity: .55; stroke: var(--main); }
figure.wide .plot { max-width: 46rem; }
figure.wide { margin: 0 0 1rem; padding: .75rem; background: var(--card); border-radius: .5rem; }
.scroll { overflow-x: auto; }
.numbers td:first-child { text-align: left; overflow-wrap: anywhere; }
"""
)


def write_page(path: Path, found: Profile) -> Path:
    """Write the page whole or not at all; returns its path.

    Raises:
        PosterEdgeError: it cannot be written.
    """
    write_atomic(path, page(found))
    return path


def page(found: Profile) -> str:
    """The page as text."""
    title = escape(f"Profile of {found.model['name']} {found.model['precision']}")
    parts = [
        section("Stages of a frame", [_stages(found)]),
        section("Layers", [_layers(found)]),
        section("Least times", [_bounds(found)]),
        section("Energy", [_energy(found.energy)]),
        section("Notes", [items(found.all_notes)]),
        section("Machine", [_facts(found)]),
    ]
    body = "\n".join(p for p in parts if p)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{STYLE}{_OWN_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def _stages(found: Profile) -> str:
    stages = found.stages
    told = (
        f"<p>{escape(stages.what)}<br>{escape(stages.source)}: {stages.frames} frames, {stages.faces} faces, "
        f"<strong>{stages.total_ms:.2f} ms</strong> a frame (median), {stages.rate:.1f} frames/s one after the other. "
        "Width: mean share; figures: median.</p>"
    )
    rows = [
        [s.name, f"{s.median_ms:.3f}", f"{s.p90_ms:.3f}", f"{s.mean_ms:.3f}", f"{s.share:.1%}"] for s in stages.stages
    ]
    # Narrow parts of the bar have no room for their name: the colours' key is in one line below it.
    keys = " ".join(
        f'<span class="key stage {escape(s.name)}"></span>&#160;{escape(s.name)}&#160;{s.share:.0%}'
        for s in stages.stages
    )
    wide = f'<figure class="wide">\n{stage_bar(stages)}\n<p>{keys}</p>\n</figure>'
    return f"{told}\n{wide}\n{_table(['stage', 'median ms', 'p90 ms', 'mean ms', 'share'], rows)}"


# Layers -------------------------------------------------------------------------------------------------------


def _layers(found: Profile) -> str:
    layers = found.layers
    if layers is None:
        return ""
    told = (
        f"<p>{escape(layers.file)}, {escape(layers.runtime)}, batch {layers.batch}, medians of {layers.runs} runs. "
        f"The layers add up to {layers.sum_ms:.2f} ms; an inference without the profiler takes {found.plain_ms:.2f} ms."
        "</p>"
    )
    roof = ""
    if found.device:
        roof = (
            f'<figure class="wide">\n<figcaption>Roofline of {escape(found.device.name)}</figcaption>\n'
            f"{roofline(layers.layers, found.device)}\n<p>Area of a mark: the layer's time. A layer above the slope "
            "had its data in a cache. Layers without products are not shown.</p>\n</figure>"
        )
    return f"{told}\n{roof}\n{figures(_slowest(layers))}\n{_layer_table(found, layers)}"


def _slowest(layers: LayerProfile) -> list[str]:
    """Bars of the slowest layers and of the kinds that take most, side by side."""
    whole = layers.sum_ms or 1.0
    single = [
        Bar(_named(layer), f"{layer.ms:.3f} ms, {layer.ms / whole:.1%}", layer.ms) for layer in layers.slowest(TOP_BARS)
    ]
    kinds = [
        Bar(f"{kind} ({len(same)})", f"{ms_of(same):.3f} ms, {ms_of(same) / whole:.1%}", ms_of(same))
        for kind, same in by_kind(layers)[:TOP_BARS]
    ]
    return [
        figure("By kind", bar_plot("Time by kind of layer", "time, ms", kinds)),
        figure("Slowest layers", bar_plot("Slowest layers", "time, ms", single)),
    ]


def _named(layer: Layer) -> str:
    """Name and kind, once where they are the same, in a length that leaves room for the figures."""
    if layer.kind in layer.name:
        return shortened(layer.name, 180)
    return f"{shortened(layer.name, 110)} ({shortened(layer.kind, 80)})"


def _layer_table(found: Profile, layers: LayerProfile) -> str:
    columns = ["layer", "kind", "ms", "share", "MFLOP", "GFLOP/s", "MB", "GB/s"]
    columns += ["bound", "floor µs", "of roofline"] if found.device else []
    targets = [t for t in found.targets if t.floors]
    columns += [f"{t.target}, µs" for t in targets]
    index = {id(layer): i for i, layer in enumerate(layers.layers)}
    rows = [
        [*_cells(found, layers, layer), *(micro(t.floors[index[id(layer)]]) for t in targets)]
        for layer in layers.slowest(TOP_TABLE)
    ]
    some = f"<p>The {TOP_TABLE} slowest of {len(layers.layers)} layers.</p>" if len(layers.layers) > TOP_TABLE else ""
    return f"{some}\n{_table(columns, rows)}"


def _cells(found: Profile, layers: LayerProfile, layer: Layer) -> list[str]:
    flops = layer.cost.total_flops
    cells = [
        layer.name,
        layer.kind,
        f"{layer.ms:.3f}",
        f"{layer.ms / (layers.sum_ms or 1):.1%}",
        f"{flops / 1e6:.2f}" if flops else "",
        f"{layer.gflops:.1f}" if flops else "",
        f"{layer.cost.bytes / 1e6:.3f}",
        f"{layer.gbytes:.2f}",
    ]
    if found.device:
        share = layer.share(found.device)
        cells += [layer.bound(found.device), micro(share * layer.ms / 1e3), f"{share:.0%}"]
    return cells


# Bounds and the rest ------------------------------------------------------------------------------------------


def _bounds(found: Profile) -> str:
    parts = []
    if found.here and found.device:
        plain = found.plain_ms or 0.0
        rows = [[n, f"{1e3 * b:.3f}", f"{1e3 * b / plain:.0%}" if plain else ""] for n, b in named(found.here)]
        sources = "; ".join(f"{p}: {f.source}" for p, f in found.device.rates.items() if p != "fp16")
        parts.append(
            f"<h3>Here: {escape(found.device.name)}</h3>\n{_table(['bound', 'ms', 'of the measured time'], rows)}\n"
            f'<p class="small">{escape(sources)}; {escape(found.device.bandwidth.source)}</p>'
        )
    if found.targets:
        parts.append(_targets(found.targets))
    return "\n".join([*parts, f'<p class="small">{escape(ASSUMED)}</p>']) if parts else ""


def _targets(targets: Sequence[TargetBounds]) -> str:
    columns = ["target", "device", "FP32/FP16 TFLOPS, INT8 TOPS", "GB/s", "ideal µs", "fused µs", "layers µs"]
    rows = [[*figures_of(t), *(f"{micro(b)}{'?' * t.doubtful}" for _, b in named(t.bounds))] for t in targets]
    head = f"<h3>Elsewhere: batch {targets[0].batch}, {precision_of(targets[0])}</h3>"
    return f'{head}\n{_table(columns, rows)}\n<p class="small">?: recalled or derived, or rests on such a figure.</p>'


def _energy(report: EnergyReport | None) -> str:
    if report is None:
        return ""
    rows = [
        [f"{r.name} ({r.meter})", f"{r.watts:.2f}", "" if r.idle_watts is None else f"{r.idle_watts:.2f}",
         f"{r.joules:.2f}", "yes" if r.whole else ""]
        for r in report.rails
    ]  # fmt: skip
    gross, net = report.gross_per_face, report.net_per_face
    faces = (
        "" if gross is None else f"{gross:.4f} J per face gross" + ("" if net is None else f", {net:.4f} J above rest")
    )
    table = _table(["rail", "W", "W at rest", "J", "in the total"], rows)
    return f"<p>{escape(report.total)}: <strong>{faces}</strong></p>\n{table}\n{items(report.notes)}"


def _facts(found: Profile) -> str:
    environment = found.environment
    facts = {
        "device": environment.device,
        "model": ", ".join(f"{k} {v}" for k, v in found.model.items()),
        "system": environment.system,
        "versions": ", ".join(f"{k} {v}" for k, v in environment.versions.items()),
        "commit": environment.commit,
        "date": environment.date,
    }
    rows = "\n".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items() if v)
    return f'<table class="facts">\n{rows}\n</table>'


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(str(v))}</td>' for v in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="numbers">\n<tr>{head}</tr>\n{body}\n</table></div>'
