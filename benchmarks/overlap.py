"""Do the CPU runtimes gain from working while the next frame is searched for faces?

    python benchmarks/overlap.py --clip CLIP [--models NAME …] [--rounds 7] [--frames 80]

Plain and overlapped runs take turns over the same frames; each round gives one ratio of frames a second, above 1
where it helps.  OpenVINO's runner works by itself, as ``run`` uses it; onnxruntime gets a thread here, which ``run``
does not give it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from run_all import RESULTS, environment

from poster_edge.config import DEFAULT_MODEL
from poster_edge.pipeline.frame import Frame
from poster_edge.pipeline.sources import open_source
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.vision.align import crop_face, usable
from poster_edge.vision.detect import choose_detector
from poster_edge.vision.faces import Detector, Image

RUNTIMES = ("onnxruntime", "openvino")


def crops_of(frame: Frame, detector: Detector, classifier: Classifier) -> list[Image]:
    """The faces of a frame as ``run`` cuts them out."""
    faces = [f for f in detector.detect(frame.image) if usable(f.box, frame.image)]
    return [crop_face(frame.image, face, classifier.preprocess) for face in faces]


def frames_a_second(clip: str, count: int, prepare: Callable[[Frame], list[Image]], classify: Any) -> float:
    """One run over the clip; ``classify`` takes the crops of a frame and may return what has a ``result`` to come."""
    source, done = open_source(clip, report=print, notify=print), 0
    under_way: Any = None
    began = time.perf_counter()
    for frame in islice(source, count):
        crops = prepare(frame)
        given = classify(crops) if crops else None
        if under_way is not None:
            under_way.result()
        under_way = given if hasattr(given, "result") else None
        done += 1
    if under_way is not None:
        under_way.result()
    return done / (time.perf_counter() - began)


def compare(model: str, runtime: str, clip: str, rounds: int, frames: int, yunet: Path | None) -> dict[str, Any]:
    """Plain and overlapped runs in turns."""
    detector = choose_detector("yunet", yunet)
    with Classifier(load_bundle(model), runtime=runtime, device="cpu") as classifier, ThreadPoolExecutor(1) as thread:

        def prepare(frame: Frame) -> list[Image]:
            return crops_of(frame, detector, classifier)

        def apart(crops: Sequence[Image]) -> Any:
            return classifier.submit(crops) if classifier.overlaps else thread.submit(classifier, crops)

        frames_a_second(clip, frames, prepare, classifier)
        pairs = []
        for number in range(rounds):
            ways = [classifier, apart] if number % 2 else [apart, classifier]
            speeds = {way is apart: frames_a_second(clip, frames, prepare, way) for way in ways}
            pairs.append((speeds[False], speeds[True]))
        ratios = sorted(overlapped / plain for plain, overlapped in pairs)
        return {
            "model": model,
            "runtime": classifier.runtime,
            "overlapped_by": "the runtime" if classifier.overlaps else "a thread",
            "plain_fps": round(statistics.median(p for p, _ in pairs), 1),
            "overlapped_fps": round(statistics.median(o for _, o in pairs), 1),
            "ratio_median": round(statistics.median(ratios), 3),
            "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
        }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=[DEFAULT_MODEL], help="names or bundles")
    parser.add_argument("--yunet", type=Path, help="YuNet's model; default: where 'run' looks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=80)
    args = parser.parse_args()
    results = [
        compare(model, runtime, str(args.clip), args.rounds, args.frames, args.yunet)
        for model in args.models
        for runtime in RUNTIMES
    ]
    record = {"environment": environment(), "clip": args.clip.name, "frames": args.frames, "rounds": args.rounds}
    text = json.dumps({**record, "results": results}, indent=1) + "\n"
    (RESULTS / "overlap.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
