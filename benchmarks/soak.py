"""A long run in one process: does its memory grow, does it keep files open?

    python benchmarks/soak.py --clip VIDEO [--frames 200000] [--warm-up 10000] [--runtime openvino] [--detect-every 0.2]

The clip's frames go round as a camera's would, through everything that ``run --blur --save`` does with a frame but
writing it.  Writes ``soak.json``: memory and open files every thousand frames, and the slope after the warm-up.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from run_all import write

from poster_edge.config import DEFAULT_MODEL
from poster_edge.pipeline.frame import Frame
from poster_edge.pipeline.report import Tally
from poster_edge.pipeline.runner import in_order
from poster_edge.pipeline.stages import Pipeline, painter
from poster_edge.pipeline.steady import Steadier
from poster_edge.pipeline.video import video_frames
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.vision.detect import choose_detector
from poster_edge.vision.follow import Follower

EVERY, FPS = 1000, 25.0


def main() -> None:
    """Run and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=200_000, help="after the warm-up")
    parser.add_argument("--warm-up", type=int, default=10_000)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--detect-every", type=float, default=0.2, metavar="SECONDS")
    args = parser.parse_args()
    images = [frame.image for frame in video_frames(args.clip, report=print)]
    detector = choose_detector("yunet", notify=print)
    tally, marks = Tally(), []
    with Classifier(load_bundle(args.model), runtime=args.runtime, device="cpu") as classifier:
        pipeline = Pipeline(
            detector,
            classifier,
            painter=painter(blur=True),
            steadier=Steadier(0.5),
            follower=Follower(detector, args.detect_every) if args.detect_every else None,
        )
        began = time.monotonic()
        frames = itertools.islice(camera(images), args.warm_up + args.frames)
        for number, result in enumerate(in_order(frames, pipeline, more=lambda: True), 1):
            tally.add(result)
            if number % EVERY == 0:
                marks.append({"frames": number, "rss_kb": rss_kb(), "open_files": open_files()})
        seconds = time.monotonic() - began
        runtime = classifier.runtime
    after = [m for m in marks if m["frames"] >= args.warm_up]
    slope = float(np.polyfit([m["frames"] / 1000 for m in after], [m["rss_kb"] for m in after], 1)[0])
    write(
        "soak.json",
        {
            "clip": args.clip.name,
            "model": args.model,
            "runtime": runtime,
            "detector": detector.name,
            "detect_every_s": args.detect_every,
            "frames": tally.frames,
            "faces": tally.faces,
            "tracks": tally.tracks,
            "warm_up": args.warm_up,
            "seconds": round(seconds, 1),
            "fps": round(tally.frames / seconds, 1),
            "rss_kb_per_1000_frames": round(slope, 3),
            "rss_kb": [after[0]["rss_kb"], after[-1]["rss_kb"]],
            "open_files": sorted({m["open_files"] for m in after}),
            "marks": marks[:: max(1, len(marks) // 40)],
        },
    )


def camera(images: list[np.ndarray]) -> Iterator[Frame]:
    """Frames without an end."""
    for index in itertools.count():
        yield Frame(index, index / FPS, "camera", images[index % len(images)], 0.0, "live", FPS)


def open_files() -> int:
    """Files, pipes and sockets that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def rss_kb() -> int:
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


if __name__ == "__main__":
    main()
