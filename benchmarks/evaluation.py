"""Regenerates the figures of docs/evaluation.md: the default model's report, its pictures, the ablation's counts.

python benchmarks/evaluation.py --data fer2013.npz     measure, draw, write into benchmarks/results and the docs
python benchmarks/evaluation.py                        write the docs from the result files
python benchmarks/evaluation.py --check                fail when the docs are out of date
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from readme import table
from run_all import RESULTS, ROOT, write

from poster_edge.config import DEFAULT_MODEL

PAGE = ROOT / "docs" / "evaluation.md"
BEGIN, END = "<!-- figures:begin", "<!-- figures:end -->"
REPORT, COUNTS, MASKING = f"eval_{DEFAULT_MODEL}_fer2013.json", "ablation_counts.json", "relevance_masking.json"
ABLATION = "ablation.json"
#: Cells of 36 that are painted over.
MASKED = (0, 2, 4, 8, 12, 18)
FACES = 100


def measure(data: Path) -> None:
    """Everything that needs the default model and FER2013's validation split."""
    report, command = RESULTS / REPORT, [sys.executable, "-m", "poster_edge"]
    confusion, tsne = (RESULTS / f"{n}_{DEFAULT_MODEL}_fer2013.png" for n in ("confusion", "tsne"))
    pictures = ["--plot", str(confusion), "--tsne", str(tsne)]
    evaluation = ["eval", "--runtime", "onnxruntime", "--data", str(data), "--json", str(report), *pictures]
    subprocess.run([*command, *evaluation], check=True, cwd=ROOT)
    values = json.loads(report.read_text())
    write(REPORT, {**values, "data": data.name, "bundle": values["model"]})
    with tempfile.TemporaryDirectory() as folder:
        photos = ["--source", "poster_edge/zoo/samples", "-o", folder, "--json", f"{folder}/r.json"]
        subprocess.run([*command, "explain", *photos], check=True, cwd=ROOT)
        for row in json.loads(Path(f"{folder}/r.json").read_text()):
            name = Path(row["picture"]).name
            (RESULTS / f"relevance_{name}").write_bytes(Path(row["picture"]).read_bytes())
    write(MASKING, masking(data))


def masking(data: Path) -> dict[str, Any]:
    """What painting over the most relevant places does to the chosen class, against others.

    Source: Chefer et al. (2021), section 5.1, "positive" and "negative perturbation", on cells instead of tokens.
    """
    import numpy as np
    import torch

    from poster_edge.data.faces import load_faces
    from poster_edge.data.preprocess import to_input
    from poster_edge.models.checkpoint import load_model
    from poster_edge.models.relevance import explain

    network, info = load_model(ROOT / "poster_edge" / "zoo" / DEFAULT_MODEL / "model.safetensors")
    faces, rng = load_faces(data), np.random.default_rng(0)
    rows = rng.permutation(faces.indices("validation"))[:FACES]
    x = torch.from_numpy(to_input([faces.read(int(i)) for i in rows], info.preprocess))
    found = explain(network, x)
    chosen = torch.from_numpy(found.explained)[:, None]
    both = sum(m.sum(axis=1) for m in found.maps.values())
    grid = both.shape[1]
    flat = both.reshape(len(both), -1)
    orders = {
        "most relevant first": np.argsort(-flat, axis=1),
        "at random": np.argsort(rng.random(flat.shape), axis=1),
        "least relevant first": np.argsort(flat, axis=1),
    }
    results = []
    for name, order in orders.items():
        for count in MASKED:
            cells = np.zeros(flat.shape, bool)
            np.put_along_axis(cells, order[:, :count], True, axis=1)
            # B x g² -> B x 1 x S x S
            mask = np.kron(cells.reshape(-1, grid, grid), np.ones((x.shape[2] // grid,) * 2, bool))[:, None]
            with torch.inference_mode():
                # 0 is the mean gray after normalisation.
                p = network(x.masked_fill(torch.from_numpy(mask), 0.0)).softmax(dim=1).gather(1, chosen)
            results.append({"order": name, "cells": count, "probability": round(float(p.mean()), 4)})
    return {"model": info.model, "data": data.name, "faces": len(rows), "cells": grid**2, "results": results}


def counts() -> None:
    """Parameters and operations of every row of every ablation table, for POSTER and poster-nano."""
    from poster_edge.cli.ablate_table import open_table
    from poster_edge.models.ablation import TABLES

    rows = [
        {"table": name, **{k: v for k, v in row.values().items() if v is not None}}
        for model in ("poster", "poster-nano")
        for name in TABLES
        for row in open_table(model, name)
    ]
    (RESULTS / COUNTS).write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def load(name: str) -> dict[str, Any]:
    """One result file."""
    values: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return values


def figures() -> str:
    """The generated part of the page."""
    return "\n\n".join([_classes(), _pictures(), _masking(), _counts(), _ablation()])


def _classes() -> str:
    report = load(REPORT)
    rows = [
        [
            name,
            str(c["images"]),
            *(f"{c[k]:.1%}" for k in ("recall", "precision")),
            f"{c['f1']:.3f}",
            f"{c['taken_for']} {c['taken_for_share']:.1%}",
        ]
        for name, c in report["per_class"].items()
    ]
    cost = report["size_and_cost"]
    return (
        f"### The default model\n\n{report['model']} on FER2013's validation split: {report['count']} faces, accuracy "
        f"{report['accuracy']:.2%} ± {report['accuracy_ci95']:.2%}, mean class accuracy "
        f"{report['mean_class_accuracy']:.2%}; {cost['parameters']:,} parameters, {cost['flops'] / 1e9:.3f} GFLOPs "
        f"({cost['paper_flops'] / 1e9:.3f} as the POSTER paper counts).\n\n"
        + table(["class", "images", "recall", "precision", "F1", "most taken for"], rows)
    )


def _pictures() -> str:
    where = "../benchmarks/results"
    note = "Why these classes: relevance of the packaged photos' faces, by `poster-edge explain`."
    return "\n\n".join(
        [
            f"![confusion matrix]({where}/confusion_{DEFAULT_MODEL}_fer2013.png)",
            f"![t-SNE of the features]({where}/tsne_{DEFAULT_MODEL}_fer2013.png)",
            note,
            f"![relevance, astronaut]({where}/relevance_astronaut.png)",
            f"![relevance, Grace Hopper]({where}/relevance_grace_hopper.png)",
        ]
    )


def _masking() -> str:
    found = load(MASKING)
    orders = list(dict.fromkeys(r["order"] for r in found["results"]))
    at = {(r["order"], r["cells"]): r["probability"] for r in found["results"]}
    cells = sorted({r["cells"] for r in found["results"]})
    rows = [[order, *(f"{at[order, k]:.3f}" for k in cells)] for order in orders]
    return (
        f"Do the maps find what matters? Cells of {found['faces']} validation faces ({found['cells']} cells each) are "
        "painted over, and the mean probability of the class that was chosen before is taken again "
        f"({found['model']}, `benchmarks/evaluation.py`):\n\n"
        + table(["cells painted over", *map(str, cells)], rows)
        + "\n\nThe further the first row lies below the second, and the third above it, the better the maps."
    )


def _counts() -> str:
    parts = ["### Size and cost of the ablation's rows\n\nGenerated by `poster-edge ablate --dry-run`'s own functions."]
    found = load(COUNTS)["rows"]
    for model in ("poster", "poster-nano"):
        rows = [
            [
                r["table"],
                r["label"],
                *(f"{r[k] / 1e6:.2f} M" for k in ("parameters", "fusion_parameters")),
                *(f"{r[k] / 1e9:.3f} G" for k in ("flops", "paper_flops")),
            ]
            for r in found
            if r["model"].partition("@")[0] == model
        ]
        columns = ["table", "row", "parameters", "of the transformer", "FLOPs", "as the paper counts"]
        parts.append(f"{model}:\n\n" + table(columns, rows))
    return "\n\n".join(parts)


def _ablation() -> str:
    """Accuracy of the ablation's rows, or that they were not trained."""
    title = "### Accuracy of the ablation's rows\n\n"
    if not (RESULTS / ABLATION).is_file():
        return f"{title}Not trained yet: `python benchmarks/ablation.py --data fer2013.npz --landmarks mesh.npz`."
    found = load(ABLATION)
    machine = found["environment"]
    rows = [
        [
            name,
            row["label"],
            f"{row['accuracy']:.2%} ± {1.96 * (row['accuracy'] * (1 - row['accuracy']) / row['faces']) ** 0.5:.2%}",
            f"{row['mean_class_accuracy']:.2%}",
            f"{row['accuracy_without_twins']:.2%}",
        ]
        for name, group in found["tables"].items()
        for row in group
        if row["accuracy"] is not None
    ]
    left = sum(row["accuracy"] is None for group in found["tables"].values() for row in group)
    images = "the whole training split" if found["images"] == "all" else f"{found['images']} training images"
    return (
        f"{title}{found['model']}, {images} of FER2013, {found['epochs']} epochs, one "
        f"seed, {found['precision']}, on {machine['cpu']} ({machine['date']}, `benchmarks/ablation.py`); the epoch was "
        "selected on the faces that it is measured on. The intervals are those of the faces, 95 %; another seed moves "
        "the figures too."
        + (f" {left} rows are not trained yet." if left else "")
        + _alike(found)
        + "\n\n"
        + table(["table", "row", "accuracy", "mean class accuracy", "without twins"], rows)
    )


def _alike(found: dict[str, Any]) -> str:
    """How many rows the faces do not tell from the whole network, and that short runs are no verdict."""
    trained = {r["model"]: r for group in found["tables"].values() for r in group if r["accuracy"] is not None}
    whole = trained.pop(found["model"], None)
    if whole is None:
        return ""
    half = 1.96 * (whole["accuracy"] * (1 - whole["accuracy"]) / whole["faces"]) ** 0.5
    near = sum(abs(r["accuracy"] - whole["accuracy"]) <= half for r in trained.values())
    text = f" Of {len(trained)} other networks {near} lie within the interval of the whole one."
    if found["images"] != "all" or found["epochs"] < 40:
        text += " A study this short tells what breaks a network, not which of two good ones is better."
    return text


def main() -> None:
    """Measure where there is data, then write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="fer2013_train_valid.npz")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.data is not None:
        measure(args.data.resolve())
        counts()
    text = PAGE.read_text()
    start = text.index("\n", text.index(BEGIN)) + 1
    wanted = text[:start] + figures() + "\n" + text[text.index(END) :]
    if args.check:
        sys.exit(0 if wanted == text else "docs/evaluation.md is out of date: run python benchmarks/evaluation.py")
    PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
