"""What ``poster-edge profile`` prints: a bar of the stages, tables of layers and bounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from poster_edge.bench.devices import Device
from poster_edge.bench.layers import Layer, LayerProfile
from poster_edge.bench.profiling import AS_EXPORTED, Profile, StageProfile, TargetBounds
from poster_edge.bench.roofline import Bounds
from poster_edge.cli import console

#: A colour for each stage, of Okabe and Ito's set, which the colour-blind can tell apart too.
_COLOURS = {
    "capture": "#999999",
    "decode": "#e69f00",
    "detect": "#0072b2",
    "align": "#f0e442",
    "preprocess": "#009e73",
    "copy": "#666666",
    "infer": "#d55e00",
    "post": "#cc79a7",
    "draw": "#56b4e9",
}
_FULL = "█"
_BAR, _ROW_BAR = 100, 24
#: What the bounds assume, for the line under their table.
ASSUMED = (
    "Bounds from below, not predictions: nothing runs faster. ideal: weights, input and output cross the memory bus "
    "once; fused: each image convolution by itself, the rest in one kernel; layers: each layer by itself."
)


def show(found: Profile, *, top: int) -> None:
    """Print everything that was found.

    Args:
        found: the record.
        top: layers in the table.
    """
    _stages(found.stages)
    if found.layers:
        _layers(found.layers, found, top)
    if found.here and found.device:
        console.stdout.print(_here(found))
    if found.targets:
        console.stdout.print(_targets(found.targets))
    if found.here or found.targets:
        console.message(ASSUMED)
    if found.energy:
        _energy(found)
    for note in found.all_notes:
        console.message(f"note: {note}")


# Stages -------------------------------------------------------------------------------------------------------


def _stages(found: StageProfile) -> None:
    console.stdout.print(f"{found.what}", markup=False)
    console.stdout.print(
        f"{found.source}: {found.frames} frames, {found.faces} faces, {found.total_ms:.2f} ms a frame (median), "
        f"{found.rate:.1f} frames/s one after the other",
        markup=False,
    )
    width = min(_BAR, console.stdout.width)
    console.stdout.print(flame([(s.name, s.share) for s in found.stages], width), soft_wrap=True)
    rows = [
        [
            Text(s.name, style=f"bold {_COLOURS[s.name]}"),
            f"{s.median_ms:.3f}",
            f"{s.p90_ms:.3f}",
            f"{s.share:.1%}",
            Text(_FULL * round(_ROW_BAR * s.share) or "▏", style=_COLOURS[s.name]),
        ]
        for s in found.stages
    ]
    table = console.table("", ["stage", "median ms", "p90 ms", "share", ""], rows)
    table.columns[-1].justify = "left"
    console.stdout.print(table)


def flame(shares: Sequence[tuple[str, float]], width: int) -> Text:
    """One bar in which each part is as wide as its share and bears its name where that fits.

    Args:
        shares: (name, 0 to 1) of each part.
        width: of the bar in letters.
    """
    text, done, before = Text(), 0.0, 0
    for name, share in shares:
        done += share
        end = round(width * done)
        room = end - before
        if room > 0:
            label = name if len(name) + 2 <= room else name[: max(0, room - 1)]
            text.append(f"|{label}".ljust(room, "▒")[:room], style=f"black on {_COLOURS.get(name, 'white')}")
        before = end
    return text


# Layers -------------------------------------------------------------------------------------------------------


def _layers(layers: LayerProfile, found: Profile, top: int) -> None:
    whole = layers.sum_ms or 1.0
    title = (
        f"Layers of {layers.file}, {layers.runtime}, batch {layers.batch}: sum {layers.sum_ms:.2f} ms, "
        f"an inference without profiler {found.plain_ms:.2f} ms"
    )
    slowest = layers.slowest()
    targets = [t for t in found.targets if t.floors]
    columns = ["layer", "kind", "ms", "share", "MFLOP", "GFLOP/s", "MB", "GB/s"]
    columns += ["bound", "floor µs", "of roofline"] if found.device else []
    columns += [f"{t.target} µs" for t in targets]
    index = {id(layer): i for i, layer in enumerate(layers.layers)}
    rows = [
        [*_layer_cells(layer, whole, found.device), *(micro(t.floors[index[id(layer)]]) for t in targets)]
        for layer in slowest[:top]
    ]
    if rest := slowest[top:]:
        ms = sum(layer.ms for layer in rest)
        rows.append([f"{len(rest)} others", "", f"{ms:.3f}", f"{ms / whole:.1%}", *[""] * (len(columns) - 4)])
    console.stdout.print(console.table(title, columns, rows))
    console.stdout.print(_kinds(layers, whole))


def _layer_cells(layer: Layer, whole: float, device: Device | None) -> list[str]:
    cells = [
        _short(layer.name),
        layer.kind,
        f"{layer.ms:.3f}",
        f"{layer.ms / whole:.1%}",
        f"{layer.cost.total_flops / 1e6:.2f}" if layer.cost.total_flops else "",
        f"{layer.gflops:.1f}" if layer.cost.total_flops else "",
        f"{layer.cost.bytes / 1e6:.3f}",
        f"{layer.gbytes:.2f}",
    ]
    if device:
        share = layer.share(device)
        cells += [layer.bound(device), micro(share * layer.ms / 1e3), f"{share:.0%}"]
    return cells


def _short(name: str, letters: int = 40) -> str:
    return name if len(name) <= letters else f"{name[: letters // 2]}…{name[-letters // 2 + 1 :]}"


def _kinds(layers: LayerProfile, whole: float) -> Table:
    """Time and operations of all layers of a kind."""
    rows = [
        [kind, len(same), f"{ms_of(same):.3f}", f"{ms_of(same) / whole:.1%}", f"{_flops(same) / 1e6:.1f}"]
        for kind, same in by_kind(layers)[:10]
    ]
    return console.table("By kind", ["kind", "layers", "ms", "share", "MFLOP"], rows)


def by_kind(layers: LayerProfile) -> list[tuple[str, list[Layer]]]:
    """Layers of each kind, the kind that takes longest first."""
    groups: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers.layers:
        groups[layer.kind].append(layer)
    return sorted(groups.items(), key=lambda item: -ms_of(item[1]))


def ms_of(layers: Iterable[Layer]) -> float:
    """Sum of their medians, in ms."""
    return sum(layer.ms for layer in layers)


def _flops(layers: Iterable[Layer]) -> int:
    return sum(layer.cost.total_flops for layer in layers)


# Bounds -------------------------------------------------------------------------------------------------------


def _here(found: Profile) -> Table:
    assert found.here
    assert found.device
    ceilings = ", ".join(f"{p} {f.value * 1e3:.0f} GFLOP/s" for p, f in found.device.rates.items() if p != "fp16")
    title = f"{found.device.name}: {ceilings}, {found.device.bandwidth.value:.1f} GB/s"
    title += " (measured ceilings)" if found.device.measured else " (data sheet)"
    plain = found.plain_ms or 0.0
    rows = [
        [name, f"{1e3 * bound:.3f}", f"{1e3 * bound / plain:.0%}" if plain else ""] for name, bound in named(found.here)
    ]
    return console.table(title, ["bound", "ms", "of the measured time"], rows)


def micro(seconds: float | None) -> str:
    """Microseconds in three digits; nothing for what has no bound."""
    if seconds is None:
        return ""
    value = 1e6 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def named(found: Bounds) -> list[tuple[str, float]]:
    """(name, seconds) of the three bounds."""
    return [("ideal", found.ideal), ("fused", found.fused), ("layers", found.layers)]


def _targets(targets: Sequence[TargetBounds]) -> Table:
    title = f"Least time of the whole model, batch {targets[0].batch}, {precision_of(targets[0])}, µs"
    rows = [[*figures_of(t), *(f"{micro(bound)}{'?' * t.doubtful}" for _, bound in named(t.bounds))] for t in targets]
    columns = ["target", "device", "FP32/FP16 TFLOPS, INT8 TOPS", "GB/s", "ideal", "fused", "layers"]
    return console.table(f"{title} (?: rests on a derived figure)", columns, rows)


def precision_of(target: TargetBounds) -> str:
    """The precision in words."""
    return "precision as exported" if target.precision == AS_EXPORTED else f"all in {target.precision}"


def figures_of(target: TargetBounds) -> list[str]:
    """Name, device, rates and bandwidth as they are shown."""
    rates = " / ".join(str(target.device.rates[p]) for p in ("fp32", "fp16", "int8"))
    return [target.target, target.device.name, rates, str(target.device.bandwidth)]


# Energy -------------------------------------------------------------------------------------------------------


def _energy(found: Profile) -> None:
    report = found.energy
    assert report
    rows = [
        [
            f"{r.name} ({r.meter})",
            f"{r.watts:.2f}",
            "" if r.idle_watts is None else f"{r.idle_watts:.2f}",
            f"{r.joules:.2f}",
            "yes" if r.whole else "",
        ]
        for r in report.rails
    ]
    title = f"Energy over {report.seconds:.1f} s, {report.samples} samples"
    console.stdout.print(console.table(title, ["rail", "W", "W at rest", "J", "in the total"], rows))
    gross, net = report.gross_per_face, report.net_per_face
    faces = "no face, no J per face" if gross is None else f"{gross:.4f} J per face gross"
    console.stdout.print(
        f"{report.total}: {faces}" + ("" if net is None else f", {net:.4f} J above rest"), markup=False
    )
    for note in report.notes:
        console.message(f"note: {note}")
