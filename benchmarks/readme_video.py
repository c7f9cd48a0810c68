"""Figures of docs/video.md: how calm labels are, what averaging gains, what is left when weak ones are not named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Table = Callable[[list[str], list[list[str]]], str]


def page(results: Path, table: Table) -> str:
    """All tables."""
    report = json.loads((results / "steady.json").read_text())
    return "\n\n".join([_clips(report, table), _second(report), _uncertain(report, table)])


def _clips(report: dict[str, Any], table: Table) -> str:
    clips: dict[str, Any] = report["clips"]
    seconds = list(next(iter(clips.values()))["changes_per_minute"])
    rows = [
        [
            f"`{name}`",
            f"{clip['frames']}",
            f"{clip['faces']} in {clip['tracks']}",
            *(f"{value:.1f}" for value in clip["changes_per_minute"].values()),
        ]
        for name, clip in clips.items()
    ]
    slowest = max(clip["track_ms_p50"] for clip in clips.values())
    machine = report["environment"]
    return (
        f"How often a followed face's label changes, in a minute, `{report['model']}`, YuNet, {machine['date']} "
        "(`benchmarks/steady.py`, `steady.json`). There is no truth for these clips: this tells how calm labels are, "
        f"not how right. Following, averaging and looking for cuts take {slowest:.2f} ms a frame (median, the slower "
        "clip).\n\n" + table(["clip", "frames", "faces in tracks", *(f"--smooth {float(s):g}" for s in seconds)], rows)
    )


def _second(report: dict[str, Any]) -> str:
    second = report["second"]
    averaged = ", ".join(f"{value:.2%} (--smooth {float(s):g})" for s, value in second["averaged"].items())
    one = second["one_frame"]
    return (
        f"FER2013's {report['faces']} validation faces, each as {second['frames']} frames of one second that differ "
        f"as a detector's boxes and a camera's noise do (place and size by {second['shift']:.0%}, "
        f"{second['turn_deg']:g} degrees, {second['noise_levels']:g} levels, standard deviations): a single frame is "
        f"right in {one['mean']:.2%} ({one['min']:.2%} to {one['max']:.2%}), the average at the end of the second in "
        f"{averaged}. Drawn, not filmed; the expression does not change."
    )


def _uncertain(report: dict[str, Any], table: Table) -> str:
    found = report["uncertain"]
    return (
        "The same faces as they are, one picture each, by `--min-probability` (their split selected the epoch and the "
        "temperature):\n\n"
        + table(
            ["", *(f"{row['min_probability']:g}" for row in found)],
            [
                ["faces that are named", *(f"{row['named']:.1%}" for row in found)],
                ["of these rightly", *(f"{row['accuracy']:.1%}" for row in found)],
            ],
        )
    )
