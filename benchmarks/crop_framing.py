"""How face crops and detector boxes relate: where the manifest's margin and Haar's constants come from.

    python benchmarks/crop_framing.py --data fer2013_train_valid.npz --yunet face_detection_yunet_2023mar.onnx
        [--media FOLDER]

FER2013 holds crops whose detector is not documented.  Two estimates of ``crop side / longer box
side - 1`` (margin) and of the downward shift of the crop's centre over the longer side (shift_y):

- box: YuNet's box on the crop, enlarged and bordered.  The crop cuts heads off, so the box may be
  too small and the margin too large.
- landmarks: YuNet's eyes and mouth on the crop, compared with where they lie in YuNet's boxes of
  whole heads (``--media``).  Does not depend on what the crop cut off.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from poster_edge.data.faces import load_faces
from poster_edge.vision.faces import Face, Image, shrink
from poster_edge.vision.haar import Haar
from poster_edge.vision.yunet import COARSE_PIXELS, YuNet

RESULTS = Path(__file__).parent / "results" / "crop_framing.json"
VIDEO_STEP = 5
#: (side the 48 px crop is enlarged to, border over side, border kind)
SETTINGS = ((96, 0.5, "replicate"), (144, 0.5, "gray"), (192, 0.5, "replicate"), (192, 0.5, "gray"), (192, 0.0, "none"))
BORDERS = {"replicate": cv2.BORDER_REPLICATE, "gray": cv2.BORDER_CONSTANT, "none": cv2.BORDER_CONSTANT}

Summary = dict[str, list[float]]


def quartiles(rows: list[tuple[float, ...]], names: tuple[str, ...]) -> Summary:
    """25th, 50th and 75th percentile of every column."""
    table = np.percentile(np.asarray(rows), [25, 50, 75], axis=0).T
    return {name: [round(float(v), 3) for v in row] for name, row in zip(names, table, strict=True)}


def points(face: Face) -> tuple[float, float] | None:
    """Eye-to-mouth distance and height of the point midway; None for tilted or turned faces."""
    assert face.landmarks is not None
    right, left, nose, mouth_r, mouth_l = face.landmarks
    eyes, mouth, apart = (right + left) / 2, (mouth_r + mouth_l) / 2, left - right
    if abs(np.degrees(np.arctan2(apart[1], apart[0]))) > 15 or abs(nose[0] - eyes[0]) > 0.3 * np.linalg.norm(apart):
        return None
    return float(np.linalg.norm(eyes - mouth)), float((eyes[1] + mouth[1]) / 2)


def enlarged(image: Image, side: int, border: float, kind: str) -> Image:
    """The crop at ``side`` px as BGR with a border of ``border * side`` px."""
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    big = cv2.cvtColor(cv2.resize(gray, (side, side), interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2BGR)
    pad = int(side * border)
    return np.asarray(cv2.copyMakeBorder(big, pad, pad, pad, pad, BORDERS[kind], value=(127, 127, 127)), np.uint8)


def crop_rows(
    images: list[Image], yunet: YuNet, setting: tuple[int, float, str], whole: NDArray[np.float64]
) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Margins and shifts by box and by landmarks for one way of enlarging."""
    side, border, kind = setting
    middle = int(side * border) + side / 2
    by_box: list[tuple[float, ...]] = []
    by_points: list[tuple[float, ...]] = []
    for image in images:
        faces = yunet.detect(enlarged(image, side, border, kind))
        if not faces:
            continue
        face = max(faces, key=lambda f: f.score)
        _, y, w, h = face.box
        by_box.append((side / max(w, h) - 1, (middle - (y + h / 2)) / max(w, h)))
        if found := points(face):
            margin = whole[0] * side / found[0] - 1
            by_points.append((margin, whole[1] - (found[1] - middle) / side * (1 + margin)))
    return by_box, by_points


def media_frames(folder: Path) -> Iterator[Image]:
    """All pictures and every fifth frame of the videos, at the detectors' size."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".jpg", ".png"):
            yield shrink(np.asarray(cv2.imread(str(path)), np.uint8), COARSE_PIXELS)[0]
        elif path.suffix == ".mp4":
            video = cv2.VideoCapture(str(path))
            for index in range(int(video.get(cv2.CAP_PROP_FRAME_COUNT))):
                good, frame = video.read()
                if good and index % VIDEO_STEP == 0:
                    yield shrink(np.asarray(frame, np.uint8), COARSE_PIXELS)[0]


def whole_heads(frames: list[Image], yunet: YuNet) -> list[tuple[float, ...]]:
    """Eye-to-mouth distance and its middle's height below the box's centre, over the longer side."""
    rows: list[tuple[float, ...]] = []
    for frame in frames:
        for face in yunet.detect(frame):
            x, y, w, h = face.box
            inside = x >= 0 and y >= 0 and x + w <= frame.shape[1] and y + h <= frame.shape[0]
            if inside and h >= 40 and face.score >= 0.85 and (found := points(face)):
                rows.append((found[0] / max(w, h), (found[1] - y - h / 2) / max(w, h)))
    return rows


def haar_rows(frames: list[Image], yunet: YuNet) -> list[tuple[float, ...]]:
    """YuNet's width, height and centre seen from Haar's square, for faces that both find."""
    haar = Haar()
    rows: list[tuple[float, ...]] = []
    for frame in frames:
        faces = [f for f in yunet.detect(frame) if f.score > 0.8]
        for x, y, side, _ in haar.squares(frame)[0]:
            for bx, by, w, h in (f.box for f in faces):
                dx, dy = bx + w / 2 - x - side / 2, by + h / 2 - y - side / 2
                if abs(dx) < w / 2 and abs(dy) < h / 2:
                    rows.append((w / side, h / side, dx / side, dy / side))
    return rows


def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="fer2013_train_valid.npz")
    parser.add_argument("--yunet", type=Path, required=True, help="YuNet's ONNX file")
    parser.add_argument("--media", type=Path, required=True, help="folder of photos and clips with whole heads")
    parser.add_argument("--count", type=int, default=500, help="crops, drawn from the validation split")
    args = parser.parse_args()
    yunet = YuNet(args.yunet)
    frames = list(media_frames(args.media))
    heads = whole_heads(frames, yunet)
    whole = np.median(np.asarray(heads), axis=0)
    faces = load_faces(args.data)
    chosen = np.random.default_rng(0).choice(faces.indices("validation"), args.count, replace=False)
    images = [faces.read(int(i)) for i in chosen]
    squares = haar_rows(frames, yunet)
    report: dict[str, object] = {
        "columns": "25th, 50th, 75th percentile",
        "whole_heads": {"faces": len(heads), **quartiles(heads, ("eye_mouth_over_side", "middle_below_centre"))},
        "haar_to_yunet": {"faces": len(squares), **quartiles(squares, ("width", "height", "right", "down"))},
    }
    for setting in SETTINGS:
        by_box, by_points = crop_rows(images, yunet, setting, whole)
        report["fer2013 at {}px border {} {}".format(*setting)] = {
            "found": len(by_box),
            "box": quartiles(by_box, ("margin", "shift_y")),
            "landmarks": quartiles(by_points, ("margin", "shift_y")),
        }
    for name, values in report.items():
        print(f"{name}: {values}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
