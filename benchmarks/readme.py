"""Writes the figures of the README and of docs/ from the committed result files, so that the two cannot differ.

python benchmarks/readme.py [--check]
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import readme_bench
import readme_engines
import readme_gpu
import readme_ingredients
import readme_precision
import readme_profile
import readme_video

from poster_edge.config import DEFAULT_MODEL

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures:begin", "<!-- figures:end -->"


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(r) + " |" for r in rows)])


def load(name: str) -> dict[str, Any]:
    """One result file."""
    values: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return values


def accuracy() -> str:
    """Figures of the default model on FER2013's validation split, and per class."""
    report = load(f"eval_{DEFAULT_MODEL}_fer2013.json")
    alone = report["without_twins"]
    rows = [
        ["accuracy", f"**{report['accuracy']:.2%}** ± {report['accuracy_ci95']:.2%}", f"{alone['accuracy']:.2%}"],
        ["mean class accuracy", f"{report['mean_class_accuracy']:.2%}", f"{alone['mean_class_accuracy']:.2%}"],
        ["macro F1", f"{report['macro_f1']:.4f}", f"{alone['macro_f1']:.4f}"],
        ["expected calibration error", f"{report['ece']:.4f}", f"{alone['ece']:.4f}"],
    ]
    recall = {k: f"{v:.1%}" for k, v in report["recall"].items()}
    twins = report["count"] - alone["count"]
    return "\n\n".join(
        [
            f"`{report['model']}` on FER2013's validation split ({report['count']} faces; {twins} of them have a "
            "pixel-equal twin in the training split, which was dropped from training), as the bundle runs in "
            "onnxruntime. The split selected the epoch and the temperature, and before those the epochs of its "
            "starting weights and of its teachers, so the figures are optimistic; the third split was never seen.",
            table(["", "validation", f"without the {twins} twins"], rows),
            table(["recall", *recall], [["", *recall.values()]]),
            f"![confusion matrix](benchmarks/results/confusion_{DEFAULT_MODEL}_fer2013.png)",
        ]
    )


def start_up() -> str:
    """Wall times of whole processes."""
    report = load("startup.json")
    machine = report["environment"]
    rows = [
        [f"`{name}`", f"{v['median_s'] * 1e3:.0f} ms", f"{v['min_s'] * 1e3:.0f} to {v['max_s'] * 1e3:.0f} ms"]
        for name, v in report["commands"].items()
    ]
    peak = max(v["peak_rss_mib_so_far"] for v in report["commands"].values())
    return (
        f"Whole processes, {report['runs']} runs each, on {machine['cores']} cores of {machine['cpu']}, Python "
        f"{machine['python']}; the `run` peaks at {peak:.0f} MiB:\n\n" + table(["", "median", "range"], rows)
    )


def engines() -> str:
    """Size, time and memory of building engines without a GPU; more in docs/tensorrt.md."""
    return readme_engines.short(RESULTS / "engines.csv", table)


def kernels() -> str:
    """Errors of the fused kernels: the worst level and batch of each kernel and precision."""
    with (RESULTS / "kernels_numerics.csv").open(newline="") as file:
        found = [r for r in csv.DictReader(file) if r["kernel"] != "partials"]
    precisions = list(dict.fromkeys(r["precision"] for r in found))
    rows = []
    for name in dict.fromkeys(r["kernel"] for r in found):
        cells = []
        for precision in precisions:
            group = [r for r in found if (r["kernel"], r["precision"]) == (name, precision)]
            worst = [max(float(r[k]) for r in group) for k in ("error", "torch_error")]
            cells.append(f"{worst[0]:.1e} ({worst[1]:.1e})")
        rows.append([name, *cells])
    batches = ", ".join(sorted({r["batch"] for r in found}, key=int))
    return "\n\n".join(
        [
            f"Fused kernels against float64 in Triton's interpreter, poster-nano's weights with and without token "
            f"mixing, batches {batches}: relative L2 error, worst level; in brackets PyTorch's own "
            "(`benchmarks/kernels.py`, `kernels_numerics.csv`):",
            table(["", *precisions], rows),
            "A kernel in w8a16 is compared on the same INT8 weights; a depth with the weights before rounding.",
        ]
    )


def figures() -> str:
    """The whole generated part."""
    note = "Not measured on a Jetson. `make bench` regenerates what needs no GPU."
    return "\n\n".join(
        [
            accuracy(),
            readme_precision.short(RESULTS, table),
            *filter(None, [readme_bench.short(RESULTS, table)]),
            engines(),
            kernels(),
            readme_gpu.short(RESULTS),
            start_up(),
            note,
        ]
    )


def main() -> None:
    """Rewrite the pages that show figures, or with --check fail when one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = []
    for path, make in PAGES.items():
        text = path.read_text()
        start = text.index("\n", text.index(BEGIN)) + 1
        wanted = text[:start] + make() + "\n" + text[text.index(END) :]
        if wanted == text:
            continue
        stale.append(path.name)
        if not args.check:
            path.write_text(wanted)
    if args.check and stale:
        sys.exit(f"{', '.join(stale)}: out of date: run python benchmarks/readme.py")


#: Page -> what stands between its marks.
PAGES = {
    README: figures,
    ROOT / "docs" / "bench.md": lambda: readme_bench.page(RESULTS, table),
    ROOT / "docs" / "precision.md": lambda: readme_precision.page(RESULTS, table),
    ROOT / "docs" / "tensorrt.md": lambda: readme_engines.page(RESULTS, table),
    ROOT / "docs" / "training.md": lambda: readme_ingredients.page(RESULTS, table),
    ROOT / "docs" / "profile.md": lambda: readme_profile.page(RESULTS, table),
    ROOT / "docs" / "video.md": lambda: readme_video.page(RESULTS, table),
    ROOT / "docs" / "kernels.md": lambda: readme_gpu.tables(RESULTS, table),
}

if __name__ == "__main__":
    main()
