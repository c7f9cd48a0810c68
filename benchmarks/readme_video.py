"""Figures of docs/video.md: calm labels, accuracy of averages, faces left uncertain, frames a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Table = Callable[[list[str], list[list[str]]], str]


def page(results: Path, table: Table) -> str:
    """All tables."""
    report = json.loads((results / "steady.json").read_text())
    overlap = json.loads((results / "overlap.json").read_text())
    detector = json.loads((results / "detector.json").read_text())
    parts = [_clips(report, table), _second(report), _uncertain(report, table)]
    soak = json.loads((results / "soak.json").read_text())
    return "\n\n".join([*parts, _detector(detector, table), _overlap(overlap, table), _soak(soak)])


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
        f"not how right. Following and averaging take {slowest:.2f} ms a frame (median, the slower "
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


def _detector(report: dict[str, Any], table: Table) -> str:
    machine, cores = report["environment"], {n: report[n] for n in ("one core", "all cores")}
    rows = [
        [f"{name} of {machine['cores']}", *(f"{found['p50_ms'][k]:.1f}" for k in ("onnxruntime", "opencv"))]
        for name, found in cores.items()
    ]
    worst = max(found["largest_difference_px"] for found in cores.values())
    return (
        f"YuNet in onnxruntime, as `run` has it, and OpenCV's own detector, {cores['one core']['frames']} frames of "
        f"both clips in turns: the same {cores['one core']['faces']} faces, boxes within {worst:.0e} px; median ms "
        f"(`benchmarks/detector.py`, `detector.json`, {machine['date']}):\n\n"
        + table(["", "`run`", "OpenCV"], rows)
        + "\n\n"
        + _follow(report, table)
    )


def _follow(report: dict[str, Any], table: Table) -> str:
    rows = [
        [
            f"`{clip}`",
            f"{row['every_s']:g}",
            f"{row['whole_mean_ms']:.1f}",
            f"{row['follow_mean_ms']:.1f}",
            f"{row['missed']} of {row['faces']}",
            f"{row['more']}",
            f"{row['overlap']:.2f}",
        ]
        for clip, found in report["follow"].items()
        for row in found
    ]
    return (
        "`--detect-every` on the same clips, a face or two on the first, one to eight on the second, many of them "
        "small and dark: mean ms a frame for finding faces, beside looking everywhere; faces that only one of the two "
        "found, and how far their boxes are the same (intersection over union):\n\n"
        + table(["", "seconds", "everywhere", "following", "missed", "more", "overlap"], rows)
    )


def _overlap(report: dict[str, Any], table: Table) -> str:
    machine = report["environment"]
    rows = [
        [
            f"`{r['model']}`, {r['runtime']}",
            f"{r['plain_fps']:.1f}",
            f"{r['overlapped_fps']:.1f}",
            f"{r['ratio_median']:.2f} ({r['ratio_range'][0]:.2f} to {r['ratio_range'][1]:.2f})",
            r["overlapped_by"],
        ]
        for r in report["results"]
    ]
    return (
        f"Frames a second with YuNet, and when the next frame is searched for faces while the network works: "
        f"{report['frames']} frames of `{report['clip']}`, {report['rounds']} rounds in turns, {machine['cores']} "
        f"cores of {machine['cpu']}, {machine['date']} (`benchmarks/overlap.py`, `overlap.json`). `run` overlaps "
        "OpenVINO; onnxruntime would need a thread, which it does not get:\n\n"
        + table(["", "one after the other", "overlapped", "ratio", "overlapped by"], rows)
    )


def _soak(report: dict[str, Any]) -> str:
    after = report["frames"] - report["warm_up"]
    first, last = (kb / 1024 for kb in report["rss_kb"])
    return (
        f"A long run: {report['frames']:,} frames of `{report['clip']}`, round and round, `{report['model']}` on "
        f"{report['runtime']} with "
        f"`--detect-every {report['detect_every_s']:g} --smooth 0.5`, blurred and drawn, {report['fps']:.0f} a second: "
        f"{first:.1f} MiB, the clip decoded among it, after the first {report['warm_up']:,} and {last:.1f} after "
        f"{after:,} more, "
        f"{report['rss_kb_per_1000_frames']:.2f} KB for each thousand; open files "
        f"{' or '.join(map(str, report['open_files']))} throughout (`benchmarks/soak.py`, `soak.json`, "
        f"{report['environment']['date']})."
    )
