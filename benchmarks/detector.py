"""YuNet as ``run`` has it, in onnxruntime, beside OpenCV's own detector on the same file, and ``--detect-every``.

    python benchmarks/detector.py --clip VIDEO [--clip VIDEO …] [--yunet FILE]

Both look through the clips in turns, on one core and on all, each in a process of its own.  Then the clips are
followed, and what is found is compared with looking everywhere.  Writes ``detector.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from run_all import write

from poster_edge.pipeline.continuity import Continuity
from poster_edge.pipeline.video import video_frames
from poster_edge.vision.faces import Face, Image
from poster_edge.vision.follow import Follower
from poster_edge.vision.yunet import YuNet, find_yunet_model

#: As the detector has them.
CONF, OVERLAP, CANDIDATES = 0.6, 0.3, 5000
WARM_UP, ROUNDS = 10, 3
#: Seconds between whole looks, and the overlap of two boxes above which they are one face's.
EVERY_S, ALIKE = (0.1, 0.2, 0.5), 0.4
Boxes = list[list[float]]


def main() -> None:
    """Measure in processes of their own, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, action="append", required=True)
    parser.add_argument("--yunet", type=Path, help="YuNet's model; default: where 'run' looks")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    yunet = find_yunet_model(args.yunet)
    if yunet is None:
        parser.error("YuNet's model was not found; give --yunet")
    if args.child:
        print(json.dumps(compare(args.clip, yunet)))
        return
    report: dict[str, Any] = {"clips": [c.name for c in args.clip]}
    for name, cores in (("one core", {0}), ("all cores", os.sched_getaffinity(0))):
        given = [x for clip in args.clip for x in ("--clip", str(clip))]
        done = subprocess.run(
            [sys.executable, __file__, "--child", "--yunet", str(yunet), *given],
            check=True,
            stdout=subprocess.PIPE,
            preexec_fn=lambda cores=cores: os.sched_setaffinity(0, cores),
        )
        report[name] = json.loads(done.stdout)
    report["follow"] = {clip.name: [follow(clip, yunet, every) for every in EVERY_S] for clip in args.clip}
    print(json.dumps(report, indent=1))
    write("detector.json", report)


def compare(clips: list[Path], yunet: Path) -> dict[str, Any]:
    """Median time of both in ms, and the largest difference of their faces."""
    frames = [frame.image for clip in clips for frame in video_frames(clip, report=print)]
    ours = YuNet(yunet, conf=CONF)
    theirs = cv2.FaceDetectorYN.create(str(yunet), "", (320, 320), CONF, OVERLAP, CANDIDATES)

    def own(image: Image) -> Boxes:
        return [list(face.box) for face in ours.detect(image)]

    def opencvs(image: Image) -> Boxes:
        theirs.setInputSize((image.shape[1], image.shape[0]))
        rows = theirs.detect(image)[1]
        return sorted([] if rows is None else rows[:, :4].tolist(), key=lambda b: -b[2] * b[3])

    times: dict[str, list[float]] = {"onnxruntime": [], "opencv": []}
    found: dict[str, list[Boxes]] = {}
    for _ in range(ROUNDS):
        for name, look in (("onnxruntime", own), ("opencv", opencvs)):
            found[name], ms = look_through(frames, look)
            times[name] += ms
    pairs = list(zip(found["onnxruntime"], found["opencv"], strict=True))
    return {
        "frames": len(frames),
        "faces": sum(len(b) for b in found["opencv"]),
        "frames_with_another_number": sum(len(a) != len(b) for a, b in pairs),
        "largest_difference_px": max(
            float(np.abs(np.subtract(a, b)).max()) for a, b in pairs if a and len(a) == len(b)
        ),
        "p50_ms": {name: round(float(np.median(values)), 2) for name, values in times.items()},
        "p90_ms": {name: round(float(np.percentile(values, 90)), 2) for name, values in times.items()},
    }


def look_through(frames: list[Image], look: Callable[[Image], Boxes]) -> tuple[list[Boxes], list[float]]:
    """What is found in each frame, and the time it took in ms, of the first frames left out."""
    found, times = [], []
    for image in frames:
        began = time.perf_counter()
        found.append(look(image))
        times.append(1e3 * (time.perf_counter() - began))
    return found, times[WARM_UP:]


def follow(clip: Path, yunet: Path, every_s: float) -> dict[str, float]:
    """Time of a frame, and how far the faces are those of looking at the whole of every frame."""
    detector = YuNet(yunet, conf=CONF)
    follower, continuity = Follower(detector, every_s), Continuity()
    times: dict[str, list[float]] = {"whole": [], "follow": []}
    overlaps, missed, more = [], 0, 0
    for frame in video_frames(clip, report=print):
        continues = continuity.update(frame)
        began = time.perf_counter()
        everywhere = detector.detect(frame.image)
        between = time.perf_counter()
        found = follower.detect(frame.image, frame.time_s, continues=continues)
        times["whole"].append(1e3 * (between - began))
        times["follow"].append(1e3 * (time.perf_counter() - between))
        shares = np.array([[overlap(a, b) for b in found] for a in everywhere]).reshape(len(everywhere), len(found))
        best = shares.max(axis=1, initial=0.0)
        overlaps += best[best > ALIKE].tolist()
        missed += int((best <= ALIKE).sum())
        more += int((shares.max(axis=0, initial=0.0) <= ALIKE).sum())
    return {
        "every_s": every_s,
        "faces": missed + len(overlaps),
        "missed": missed,
        "more": more,
        "overlap": round(float(np.mean(overlaps)), 3),
        **{f"{name}_mean_ms": round(float(np.mean(values)), 2) for name, values in times.items()},
    }


def overlap(one: Face, other: Face) -> float:
    """Share of two boxes' union that both cover."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = one.box, other.box
    width, height = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    both = max(0.0, width) * max(0.0, height)
    return both / (aw * ah + bw * bh - both)


if __name__ == "__main__":
    main()
