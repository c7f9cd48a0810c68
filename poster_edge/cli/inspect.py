"""``poster-edge inspect``: what is in a bundle, what each layer computes in, what was measured on the way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from poster_edge.runtime.bundle import Bundle


#: Bytes of weights below which a type is not worth a word.
_SMALL = 5000


@click.command(name="inspect")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--layers", is_flag=True, help="Name every convolution and matrix product with its precision.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(*, bundle: str, layers: bool, as_json: bool) -> None:
    """Show the files, layers, engines, calibration and gate of BUNDLE, a name or a folder.

    Every file is held against its SHA-256; exit code 4 when one is damaged. Layers of ONNX models need
    the package onnx; those of engines were recorded when they were built, so TensorRT is not needed.
    """
    from poster_edge.cli import console
    from poster_edge.errors import UnavailableError
    from poster_edge.runtime.bundle import load_bundle

    found = gather(load_bundle(bundle))
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        for table in tables(found, layers=layers):
            console.stdout.print(table)
        for note in found["notes"]:
            console.message(note)
    damaged = [f["name"] for f in found["files"] if f["state"] != "ok"]
    if damaged:
        raise UnavailableError(f"{found['folder']}: damaged: {', '.join(damaged)}; export the bundle again")


def gather(bundle: Bundle) -> dict[str, Any]:
    """Everything that is shown, as JSON takes it."""
    from dataclasses import asdict

    from poster_edge.export.graph_precision import graph_precision
    from poster_edge.optional import available
    from poster_edge.runtime.manifest import BundleError

    manifest = bundle.manifest
    notes = [] if available("onnx") else ["layers of ONNX models need onnx: pip install 'poster-edge[export]'"]
    files, models = [], {}
    for name, artefact in manifest.artefacts.items():
        state = "ok"
        try:
            data = bundle.read(name)
            if artefact.precision and available("onnx"):
                layers, weights = graph_precision(data)
                models[name] = {"layers": layers, "weights_bytes": weights}
        except BundleError as error:
            state = str(error)
        files.append({"name": name, **asdict(artefact), "state": state})
    return {
        "folder": str(bundle.folder),
        "model": manifest.model,
        "precision": manifest.precision,
        "source": manifest.source,
        "dataset": manifest.dataset,
        "classes": list(manifest.classes),
        "size": manifest.preprocess.size,
        "files": files,
        "models": models,
        "engines": {name: asdict(record) for name, record in manifest.engines.items()},
        "calibration": manifest.calibration,
        "gate": manifest.gate,
        "notes": notes,
    }


def tables(found: dict[str, Any], *, layers: bool) -> list[Table]:
    """One table for the files, one for the layers, and so on; those that have nothing to show are left out."""
    from poster_edge.cli import console

    about = f"{found['model']}, runs in {found['precision']}, {found['dataset']}: {found['source']}"
    rows = [
        [f["name"], f["precision"], f["placement"], f"{f['bytes'] / 1e6:.2f}", f["sha256"][:16], _state(f["state"])]
        for f in found["files"]
    ]
    out = [console.table(about, ["file", "precision", "quantised", "MB", "SHA-256", "state"], rows)]
    sources = {name: m["layers"] for name, m in found["models"].items()}
    sources |= {name: e["report"].get("layers", {}) for name, e in found["engines"].items()}
    if sources:
        out.append(_counts("Layers by precision", sources))
    if found["models"]:
        sizes = [
            [name, ", ".join(f"{n / 1e6:.2f} {t}" for t, n in m["weights_bytes"].items() if n >= _SMALL)]
            for name, m in found["models"].items()
        ]
        out.append(console.table("Weights, MB", ["model", "by type"], sizes))
    if found["engines"]:
        out.append(_engines(found["engines"]))
    for title in ("calibration", "gate"):
        if found[title]:
            out.append(console.table(title.capitalize(), ["", ""], _facts(found[title])))
    if layers:
        named = [
            [node, name, kind, p]
            for name, kinds in sources.items()
            for kind, by_precision in kinds.items()
            for p, nodes in by_precision.items()
            for node in nodes
        ]
        out.append(console.table("Layers", ["node", "of", "kind", "precision"], named))
    return out


def _state(state: str) -> Any:
    from rich.text import Text

    return Text("ok", style="green") if state == "ok" else Text("damaged", style="bold red")


def _counts(title: str, sources: dict[str, dict[str, dict[str, list[str]]]]) -> Table:
    from poster_edge.cli import console

    rows = [
        [name, kind, ", ".join(f"{len(nodes)} {p}" for p, nodes in found.items())]
        for name, kinds in sources.items()
        for kind, found in kinds.items()
    ]
    return console.table(title, ["of", "kind", "how many"], rows)


def _engines(engines: dict[str, dict[str, Any]]) -> Table:
    from poster_edge.cli import console

    rows = [
        [
            name,
            f"{e['flavour']} {e['tensorrt']}",
            ", ".join(e["compute_capabilities"]) or e["gpu"],
            f"{e['precision']} ({e['report'].get('source', '')})",
            "/".join(map(str, e["profile"])),
            f"{e['seconds']:.0f}",
            f"{e['report'].get('fused_attention', 0)} for {e['report'].get('softmaxes', 0)}",
        ]
        for name, e in engines.items()
    ]
    columns = ["engine", "built by", "for", "precision", "batches", "build, s", "fused attention"]
    return console.table("Engines", columns, rows)


def _facts(values: dict[str, Any]) -> list[list[str]]:
    """Plain entries as rows; of a model's verdict only whether it passed and what was restored."""
    rows = []
    for key, value in values.items():
        if key == "models":
            for name, verdict in value.items():
                restored = ", ".join(verdict.get("restored", [])) or "none"
                passed = "passed" if verdict.get("passed") else "did not pass"
                rows.append([name, f"{passed}; back in float: {restored}"])
        elif isinstance(value, str | int | float):
            rows.append([key, str(value)])
    return rows
