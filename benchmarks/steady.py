"""What following faces and averaging over time does: labels that flicker, accuracy, and faces left uncertain.

    python benchmarks/steady.py --data FILE.npz --clip VIDEO [--clip VIDEO …] [--model NAME]

Writes ``steady.json``:

- of each clip: tracks, and how often a followed face's label changes in a minute, by the seconds of the average;
  there is no truth for it, so this says how calm the labels are, not how right;
- of FER2013's validation faces, each shown for a second in frames that differ as a detector's do: accuracy of one frame
  and of the average.  The faces do not move and the frames are drawn, not filmed;
- of the same faces as they are: how many are left and how many of those are right, by --min-probability.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from run_all import RESULTS, environment

from poster_edge.config import DEFAULT_MODEL
from poster_edge.data.faces import load_faces
from poster_edge.pipeline.frame import FrameResult
from poster_edge.pipeline.stages import Pipeline
from poster_edge.pipeline.steady import Steadier
from poster_edge.pipeline.video import video_frames
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.vision.detect import choose_detector
from poster_edge.vision.faces import Image
from poster_edge.vision.smooth import MARGIN, Smoother

SECONDS = (0.0, 0.25, 0.5, 1.0, 2.0)
LEAST = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Frames of a face that is looked at for a second, and how they differ: shares of the face's size, degrees, levels.
RATE, SHIFT, SCALE, TURN_DEG, NOISE = 25, 0.02, 0.02, 2.0, 4.0


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clip", type=Path, action="append", required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    args = parser.parse_args()
    with ExitStack() as stack:
        classifier = stack.enter_context(Classifier(load_bundle(args.model), runtime="onnxruntime", device="cpu"))
        report: dict[str, Any] = {
            "environment": environment(),
            "model": args.model,
            "runtime": classifier.runtime,
            "margin": MARGIN,
            "clips": {clip.name: of_clip(clip, classifier) for clip in args.clip},
        }
        faces = load_faces(args.data)
        chosen = faces.indices("validation")
        images, labels = [faces.read(int(i)) for i in chosen], faces.labels[chosen]
        report["faces"] = len(images)
        report["uncertain"] = uncertain(classify(classifier, images), labels)
        report["second"] = of_second(classifier, images, labels)
    print(json.dumps(report, indent=1))
    (RESULTS / "steady.json").write_text(json.dumps(report, indent=1) + "\n")


def of_clip(clip: Path, classifier: Classifier) -> dict[str, Any]:
    """Tracks of a clip and how often their labels change, by the seconds of the average."""
    detector = choose_detector("yunet", None, conf=0.6, notify=print)
    results: list[FrameResult] = []
    for seconds in SECONDS:
        pipeline = Pipeline(detector, classifier, steadier=Steadier(seconds))
        results = [pipeline.process(frame) for frame in video_frames(clip, report=print)]
        found = changes(results)
        if seconds == 0:
            record = {
                "detector": detector.name,
                "frames": len(results),
                "faces": sum(len(r.faces) for r in results),
                "tracks": len({f.track for r in results for f in r.faces}),
                "changes_per_minute": {},
            }
        record["changes_per_minute"][str(seconds)] = found
        record["track_ms_p50"] = statistics.median(r.latency_ms["track"] for r in results)
    return record


def changes(results: list[FrameResult]) -> float:
    """Changes of label from a followed face's one frame to its next, for each minute of following."""
    last: dict[int | None, tuple[float, str | None]] = {}
    count, followed_s = 0, 0.0
    for result in results:
        for face in result.faces:
            now = result.frame.time_s
            if face.track in last:
                before_s, label = last[face.track]
                followed_s += now - before_s
                count += label != face.shown.label
            last[face.track] = (now, face.shown.label)
    return 60 * count / followed_s


def classify(classifier: Classifier, crops: list[Image]) -> NDArray[np.float64]:
    """(N, C) probabilities."""
    return np.concatenate([classifier(crops[i : i + 256]) for i in range(0, len(crops), 256)])


def uncertain(rows: NDArray[np.float64], labels: NDArray[np.integer]) -> list[dict[str, float]]:
    """Share of faces that are named, and how many of those rightly, by the least probability."""
    best, right = rows.max(axis=1), rows.argmax(axis=1) == labels
    return [
        {
            "min_probability": least,
            "named": float((best >= least).mean()),
            "accuracy": float(right[best >= least].mean()),
        }
        for least in LEAST
    ]


def seen(images: list[Image]) -> Iterator[list[Image]]:
    """Frames of all faces, one list a frame: moved, scaled and turned by a little, with noise of a camera."""
    random = np.random.default_rng(0)
    for _ in range(RATE):
        frame = []
        for image in images:
            side = image.shape[0]
            angle, zoom = random.normal(0, TURN_DEG), float(np.exp(random.normal(0, SCALE)))
            matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, zoom)
            matrix[:, 2] += random.normal(0, SHIFT * side, 2)
            moved = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            frame.append(np.clip(moved + random.normal(0, NOISE, moved.shape), 0, 255).astype(np.uint8))
        yield frame


def of_second(classifier: Classifier, images: list[Image], labels: NDArray[np.integer]) -> dict[str, Any]:
    """Accuracy of single frames, and of the average after a second, by its seconds."""
    frames = [classify(classifier, crops) for crops in seen(images)]
    single = [float((rows.argmax(axis=1) == labels).mean()) for rows in frames]
    averaged = {}
    for seconds in SECONDS[1:]:
        smoother = Smoother(seconds)
        for index, rows in enumerate(frames):
            named = [smoother.update(face, row, index / RATE)[0] for face, row in enumerate(rows)]
        averaged[str(seconds)] = float((np.array(named) == labels).mean())
    return {
        "frames": len(frames),
        "shift": SHIFT,
        "scale": SCALE,
        "turn_deg": TURN_DEG,
        "noise_levels": NOISE,
        "one_frame": {"mean": statistics.mean(single), "min": min(single), "max": max(single)},
        "averaged": averaged,
    }


if __name__ == "__main__":
    main()
