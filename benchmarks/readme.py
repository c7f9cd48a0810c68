"""Writes the README's figures from the committed result files, so that the two cannot differ.

python benchmarks/readme.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

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
    """Figures of the packaged model on FER2013's validation split, and per class."""
    report = load("eval_poster-nano_fer2013.json")
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
            f"On FER2013's validation split ({report['count']} faces; {twins} of them have a pixel-equal twin in the "
            "training split, which was dropped from training), as the bundle runs in onnxruntime. The split selected "
            "the epoch and the temperature, so the figures are slightly optimistic; the third split was never seen.",
            table(["", "validation", f"without the {twins} twins"], rows),
            table(["recall", *recall], [["", *recall.values()]]),
            "![confusion matrix](benchmarks/results/confusion_poster-nano_fer2013.png)",
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


def figures() -> str:
    """The whole generated part."""
    note = "Not measured on a Jetson, nor on any GPU. `make bench` regenerates these figures."
    return "\n\n".join([accuracy(), start_up(), note])


def main() -> None:
    """Rewrite the README, or with --check fail when it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = README.read_text()
    start = text.index("\n", text.index(BEGIN)) + 1
    wanted = text[:start] + figures() + "\n" + text[text.index(END) :]
    if args.check:
        sys.exit(0 if wanted == text else "README.md is out of date: run python benchmarks/readme.py")
    README.write_text(wanted)


if __name__ == "__main__":
    main()
