"""What the crop's framing and turning cost or gain a model, on FER2013's validation faces.

    python benchmarks/crop_accuracy.py --data fer2013_train_valid.npz --yunet face_detection_yunet_2023mar.onnx
        --model BUNDLE

The stored 48 px crops are enlarged and bordered with their own edge, turned, found again by YuNet,
and cut by the margin and shift under test: upright boxes against faces turned by the eye line.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.config import Preprocess
from poster_edge.data.faces import load_faces
from poster_edge.runtime.bundle import load_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.vision.align import crop_face, crop_upright
from poster_edge.vision.faces import Face, Image
from poster_edge.vision.yunet import YuNet

RESULTS = Path(__file__).parent / "results" / "crop_accuracy.json"
SIDE, BORDER = 192, 96
MARGINS = (-0.1, 0.0, 0.1, 0.2, 0.3)
ANGLES = (0, 10, 20, 30, 45)

Found = list[tuple[Image, Face, int]]


def bordered(image: Image) -> Image:
    """A stored crop as BGR, enlarged, with its own edge around it."""
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    big = cv2.cvtColor(cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2BGR)
    return np.asarray(cv2.copyMakeBorder(big, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REPLICATE), np.uint8)


def find(pictures: list[Image], labels: NDArray[np.int64], yunet: YuNet, angle: float) -> Found:
    """Turn each picture, and keep those where YuNet finds the face."""
    middle = BORDER + SIDE / 2
    turn = cv2.getRotationMatrix2D((middle, middle), angle, 1)
    found: Found = []
    for picture, label in zip(pictures, labels, strict=True):
        turned = cv2.warpAffine(picture, turn, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        faces = yunet.detect(np.asarray(turned, np.uint8))
        if faces:
            found.append((np.asarray(turned, np.uint8), max(faces, key=lambda f: f.score), int(label)))
    return found


def accuracy(classifier: Classifier, crops: list[Image], found: Found) -> float:
    """Share of crops given their label."""
    return round(float((classifier(crops).argmax(axis=1) == [label for *_, label in found]).mean()), 4)


def compare(classifier: Classifier, found: Found, preprocess: Preprocess) -> dict[str, float]:
    """Accuracy with upright boxes and with faces turned by the eye line."""
    upright = [crop_upright(picture, face.box, preprocess) for picture, face, _ in found]
    turned = [crop_face(picture, face, preprocess) for picture, face, _ in found]
    return {
        "faces": len(found),
        "upright": accuracy(classifier, upright, found),
        "turned": accuracy(classifier, turned, found),
    }


def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="fer2013_train_valid.npz")
    parser.add_argument("--yunet", type=Path, required=True, help="YuNet's ONNX file")
    parser.add_argument("--model", required=True, help="bundle trained on FER2013")
    parser.add_argument("--count", type=int, default=1000, help="faces, drawn from the validation split")
    args = parser.parse_args()
    # Waiting for each other costs threads more than it gains them on a busy machine.
    cv2.setNumThreads(1)
    faces, yunet = load_faces(args.data), YuNet(args.yunet)
    chosen = np.random.default_rng(1).choice(faces.indices("validation"), args.count, replace=False)
    pictures, labels = [bordered(faces.read(int(i))) for i in chosen], faces.labels[chosen]
    inner = np.s_[BORDER : BORDER + SIDE, BORDER : BORDER + SIDE]
    report: dict[str, object] = {"model": str(args.model)}
    with Classifier(load_bundle(args.model), runtime="onnxruntime", threads=1) as classifier:
        found = find(pictures, labels, yunet, 0)
        report["stored crops"] = accuracy(classifier, [picture[inner] for picture, *_ in found], found)
        for margin in MARGINS:
            preprocess = replace(classifier.preprocess, margin=margin)
            crops = [crop_face(picture, face, preprocess) for picture, face, _ in found]
            report[f"margin {margin}"] = accuracy(classifier, crops, found)
        preprocess = classifier.preprocess
        for angle in ANGLES:
            found = found if angle == 0 else find(pictures, labels, yunet, angle)
            report[f"angle {angle}"] = compare(classifier, found, preprocess)
    for name, values in report.items():
        print(f"{name}: {values}")
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
