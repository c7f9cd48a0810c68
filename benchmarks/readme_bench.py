"""The README's tables of speed: every model of the zoo, the other packages, and what a run shows."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

Table = Callable[[list[str], list[list[str]]], str]
Rows = list[dict[str, str]]
COLUMNS = {
    "PyTorch eager": "eager PyTorch",
    "torch.compile": "torch.compile",
    "onnxruntime fp32": "onnxruntime FP32",
    "onnxruntime fp16": "FP16",
    "onnxruntime int8": "INT8",
    "openvino fp32": "OpenVINO FP32",
    "openvino fp16": "FP16",
    "openvino int8": "INT8",
}
_TIMES = ("p20_ms", "p50_ms", "p80_ms", "p90_ms", "p90_estimate_ms", "p99_ms")
#: Order of the rows.
MODELS = (
    "poster-nano",
    "poster-mini",
    "fer-vt-nano",
    "cf-dan-nano",
    "poster-t",
    "poster-s",
    "poster",
    "fer-vt",
    "cf-dan",
)
#: Weights in the published layout without its training: what they answer says something, how often it is right nothing.
STAND_IN = ("poster-t", "poster-s", "poster")


def read(path: Path) -> Rows:
    """Rows of a result file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def short(results: Path, table: Table) -> str:
    """For the README: how fast every model is, and other packages."""
    return "\n\n".join(part for part in (_speeds(results, table), peers(results, table)) if part)


def page(results: Path, table: Table) -> str:
    """For docs/bench.md: what the models answer, and memory; the README has the rest."""
    found = _found(results)
    if not found:
        return "Not measured yet: `make bench PART=zoo`."
    answers = [
        [_named(n, rows[0]), *(_answer(n, _labelled(rows).get(label)) for label in COLUMNS)]
        for n, rows in found.items()
    ]
    labels = (
        "PyTorch eager",
        "torch.compile",
        "onnxruntime fp32",
        "onnxruntime int8",
        "openvino fp32",
        "openvino int8",
    )
    memory = [[f"`{n}`", *(_memory(_labelled(rows).get(label)) for label in labels)] for n, rows in found.items()]
    spread = [
        [f"`{n}`", r["label"], *(_ms(r[k]) if r[k] else "–" for k in _TIMES), _interval(r), r["ran"]]
        for n, rows in found.items()
        for r in rows
    ]
    return "\n\n".join(
        [
            "What they answer on FER2013 validation faces: accuracy where the weights are trained, else the share "
            "of faces for which a candidate names the class that eager PyTorch names (– where random weights name one "
            "class only):",
            table(["", *COLUMNS.values()], answers),
            "Memory of the whole process in MiB, and in brackets the size of the file in MB:",
            table(["", *labels], memory),
            f"All figures in ms, batch 1, {_machine(found)}:",
            table(["", "", "p20", "p50", "p80", "p90", "p90 est.", "p99", "x eager (95 %)", "what ran"], spread),
            *_noise(found.values()),
        ]
    )


def _speeds(results: Path, table: Table) -> str:
    found = _found(results)
    if not found:
        return ""
    speed = [
        [_named(n, rows[0]), *(_speed(n, _labelled(rows).get(label)) for label in COLUMNS)] for n, rows in found.items()
    ]
    return "\n\n".join(
        [
            f"Every model of the zoo, batch 1, {_machine(found)}, `poster-edge bench`, in turns in one run a model "
            "(`benchmarks/zoo.py`): median ms; in brackets: times as fast as eager PyTorch, and the accuracy on "
            "FER2013's validation split or, of weights without training, how often the class is eager PyTorch's. "
            "Intervals and memory: [docs/bench.md](docs/bench.md#figures).",
            table(["", *COLUMNS.values()], speed),
            "onnxruntime has no FP16 kernels on a CPU: it computes such a graph in FP32 between casts.",
            *_noise(found.values()),
        ]
    )


def _found(results: Path) -> dict[str, Rows]:
    return {name: read(p) for name in MODELS if (p := results / f"bench_{name}.csv").is_file()}


def _labelled(rows: Rows) -> dict[str, dict[str, str]]:
    return {r["label"]: r for r in rows}


def _machine(found: dict[str, Rows]) -> str:
    first = next(iter(found.values()))[0]
    return f"{first['threads']} threads of {first['machine']}"


def _interval(row: dict[str, str]) -> str:
    if not row["ratio"]:
        return "1"
    return f"{float(row['ratio']):.2f} ({float(row['ratio_low']):.2f} to {float(row['ratio_high']):.2f})"


def peers(results: Path, table: Table) -> str:
    """Other packages beside the packaged models."""
    if not (results / "peers.csv").is_file():
        return ""
    rows = read(results / "peers.csv")
    first = rows[0]
    cells = [
        [
            r["peer"],
            f"{float(r['file_mb']):.2f}",
            f"{float(r['accuracy']):.2%}",
            f"{float(r['accuracy_without_twins']):.2%}",
            _ms(r["p50_ms"]),
            _ms(r["p90_ms"]),
            f"{float(r['ratio']):.2f}",
            f"{float(r['rss_mib']):.0f}",
        ]
        for r in rows
    ]
    columns = ["", "file MB", "accuracy", "without twins", "p50 ms", "p90 ms", f"x {first['baseline']}", "RSS MiB"]
    return "\n\n".join(
        [
            f"Other packages on the same {first['faces']} FER2013 validation faces, in turns in one run, 1 thread each "
            f"of {first['machine']}, from a gray 48x48 crop to a label (`benchmarks/peers.py`, `peers.csv`):",
            table(columns, cells),
            *_noise([rows]),
            '"As trained" feeds the crop to the network as it was trained; "own call" is what fer\'s `detect_emotions` '
            "makes of a face box that is the whole crop. Our models' epochs were selected on these faces; what the "
            "others were trained on is not known here. OpenCV Zoo's MobileFaceNet is in no package that can be had.",
        ]
    )


def _ms(text: str) -> str:
    value = float(text)
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _named(name: str, row: dict[str, str]) -> str:
    weights = "stand-in weights" if name in STAND_IN else "" if row["accuracy"] else "random weights"
    return f"`{name}`{', ' * bool(weights)}{weights}"


def _speed(name: str, row: dict[str, str] | None) -> str:
    if row is None:
        return "–"
    ratio, answer = f"{float(row['ratio']):.2f}x" if row["ratio"] else "", _answer(name, row).strip("–")
    return _ms(row["p50_ms"]) + f" ({', '.join(x for x in (ratio, answer) if x)})" * bool(ratio or answer)


def _answer(name: str, row: dict[str, str] | None) -> str:
    if row is None:
        return "–"
    if row["accuracy"] and name not in STAND_IN:
        return f"{float(row['accuracy']):.2%}"
    return f"{float(row['agreement']):.1%}" if row["agreement"] and int(row["named"]) > 1 else "–"


def _memory(row: dict[str, str] | None) -> str:
    return "–" if row is None else f"{float(row['rss_mib']):.0f} ({float(row['file_mb']):.1f})"


def _noise(groups: Iterable[Rows]) -> list[str]:
    """A line when a run was disturbed, so that a table never hides it."""
    noisy = (r for rows in groups for r in rows if r["noise"])
    reasons = dict.fromkeys(f"{r.get('model', 'this run')}: {r['noise']}" for r in noisy)
    return [f"**NOISY**, to be repeated: {'; '.join(reasons)}."] if reasons else []
