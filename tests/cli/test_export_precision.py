"""``poster-edge export`` into FP16 and INT8: what is written, what is refused, and that what is written runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import CompletedProcess

import cv2
import numpy as np
import onnx
import pytest

from poster_edge.calib.cache import Calibration, from_histograms
from poster_edge.calib.collect import collect
from poster_edge.calib.qdq import tensors_to_calibrate
from poster_edge.calib.suitability import StatisticsCollector
from poster_edge.cli.export_fastest import fastest
from poster_edge.config import DEFAULT_MODEL
from poster_edge.data.preprocess import to_input
from poster_edge.files import sha256
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.runtime.int8_sums import pairs_fit
from poster_edge.vision.samples import sample_crops

Command = Callable[..., CompletedProcess[str]]
#: It is judged faster than the default model.
NANO = ("--model", "poster-nano")
FEW = ("--calib-images", "64", "--judge-images", "200", "--target", "onnxruntime")


@pytest.fixture(scope="module")
def fer(shared: Path) -> Path:
    return shared / "data" / "fer2013_train_valid.npz"


@pytest.fixture(scope="module")
def both(poster_edge: Command, fer: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, str]:
    """The packaged model in INT8 and FP16, and what was said while it was made."""
    folder = tmp_path_factory.mktemp("precision")
    done = poster_edge("export", *NANO, "--int8", "--half", "--calib", str(fer), *FEW, "-o", "b", cwd=folder)
    assert done.returncode == 0, done.stderr
    return load_bundle(folder / "b"), done.stderr


def nano_with(folder: Path, calibration: Calibration | None) -> Path:
    """The packaged model as a bundle of its own, with another calibration or none."""
    source = load_bundle("poster-nano")
    files = {}
    for name in ("model.onnx", "MODEL_CARD.md"):
        files[name] = folder / name
        files[name].write_bytes(source.read(name))
    if calibration is not None:
        files["calibration.json"] = folder / "calibration.json"
        calibration.write(files["calibration.json"])
    return write_bundle(folder / "source", replace(source.manifest, calibration=None), files).folder


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Of poster-nano, on the packaged photos."""
    bundle = load_bundle("poster-nano")
    model = onnx.load_from_string(bundle.read("model.onnx"))
    faces = to_input(sample_crops(bundle.manifest.preprocess), bundle.manifest.preprocess)
    statistics = StatisticsCollector(7)
    statistics.update(faces, np.eye(7)[np.arange(len(faces)) % 7])
    ranges = from_histograms(collect(model, tensors_to_calibrate(model), [faces]))
    graph = sha256(bundle.folder / "model.onnx")
    return Calibration(graph, "0" * 64, "packaged photos", len(faces), 0, statistics.result(), ranges)


def test_what_is_written(both: tuple[Bundle, str]) -> None:
    bundle, said = both
    bundle.verify()
    manifest = bundle.manifest
    assert manifest.precision == "int8"
    assert {"model.onnx", "model.fp16.onnx", "model.int8.onnx", "calibration.json"} <= manifest.artefacts.keys()
    assert "model.int8-inputs.onnx" not in manifest.artefacts
    assert manifest.calibration is not None
    assert (manifest.calibration["method"], manifest.calibration["images"]) == ("mse", 64)
    assert manifest.calibration["graph_sha256"] == manifest.artefacts["model.onnx"].sha256
    assert manifest.gate is not None
    assert manifest.gate["passed"] is True
    assert said.count("gate passed: accuracy") == 2
    for file in ("model.fp16.onnx", "model.int8.onnx"):
        report = manifest.gate["models"][file]
        assert (report["images"], report["labelled"]) == (200, True)
        assert manifest.artefacts[file].temperature is not None
    assert "## Precision" in bundle.read("MODEL_CARD.md").decode()
    size = {n: a.bytes for n, a in manifest.artefacts.items()}
    assert size["model.int8.onnx"] < 0.4 * size["model.onnx"]
    assert size["model.fp16.onnx"] < 0.52 * size["model.onnx"]


def test_each_precision_runs_and_is_another_model(both: tuple[Bundle, str]) -> None:
    bundle, _ = both
    crops = sample_crops(bundle.manifest.preprocess)
    found = {}
    for precision in ("fp32", "fp16", "int8"):
        with Classifier(bundle, runtime="onnxruntime", precision=precision) as classify:
            found[precision] = classify(crops)
    for precision in ("fp16", "int8"):
        difference = np.abs(found[precision] - found["fp32"]).max()
        assert 0 < difference < 0.15, precision
    with Classifier(bundle, runtime="onnxruntime") as classify:
        np.testing.assert_array_equal(classify(crops), found["int8"])


def test_same_inputs_give_the_same_files(
    both: tuple[Bundle, str], poster_edge: Command, fer: Path, tmp_path: Path
) -> None:
    done = poster_edge("export", *NANO, "--int8", "--half", "--calib", str(fer), *FEW, "-o", "again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = load_bundle(tmp_path / "again").manifest.artefacts
    assert {n: a.sha256 for n, a in again.items()} == {n: a.sha256 for n, a in both[0].manifest.artefacts.items()}


def test_a_finished_bundle_can_be_exported_again_without_torch(
    both: tuple[Bundle, str], poster_edge: Command, tmp_path: Path
) -> None:
    """Its own calibration serves; no images and no torch are needed."""
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    done = poster_edge(
        "export", "--model", str(both[0].folder), "--int8", "--calib-method", "minmax", "-o", "c", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    manifest = load_bundle(tmp_path / "c").manifest
    assert manifest.calibration is not None
    assert manifest.calibration["method"] == "minmax"
    assert {"model.int8.onnx", "model.int8-inputs.onnx"} <= manifest.artefacts.keys()
    assert manifest.gate is not None
    assert not manifest.gate["models"]["model.int8.onnx"]["labelled"]
    assert manifest.artefacts["model.int8.onnx"].sha256 != both[0].manifest.artefacts["model.int8.onnx"].sha256


def test_the_packaged_model_brings_its_own_calibration(poster_edge: Command, tmp_path: Path) -> None:
    done = poster_edge("export", "--int8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(tmp_path / f"runs/export/{DEFAULT_MODEL}-int8")
    bundle.verify()
    assert bundle.manifest.precision == "int8"
    assert "views of the packaged photos" in done.stderr


def test_int8_needs_images(poster_edge: Command, tmp_path: Path) -> None:
    source = nano_with(tmp_path, None)
    done = poster_edge("export", "--model", str(source), "--int8", "-o", "b", cwd=tmp_path)
    assert done.returncode == 2
    assert "INT8 needs images to calibrate on: --calib DATA" in done.stderr
    assert not (tmp_path / "b").exists()


def test_calibration_of_another_graph_is_refused(
    poster_edge: Command, calibration: Calibration, tmp_path: Path
) -> None:
    source = nano_with(tmp_path, replace(calibration, graph_sha256="f" * 64))
    done = poster_edge("export", "--model", str(source), "--int8", "-o", "b", cwd=tmp_path)
    assert done.returncode == 4
    assert "is of another graph (ffffffffffff…" in done.stderr


def test_useless_ranges_fail_the_gate_and_nothing_is_written(
    poster_edge: Command, calibration: Calibration, tmp_path: Path
) -> None:
    spoilt = {t: {m: 0.02 * v for m, v in r.items()} for t, r in calibration.ranges.items()}
    source = nano_with(tmp_path, replace(calibration, ranges=spoilt))
    arguments = ("export", "--model", str(source), "--int8", "--target", "onnxruntime", "-o", "b")
    done = poster_edge(*arguments, "--report", "page", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "int8 does not pass the gate" in done.stderr
    assert "layers back in float" in done.stderr
    assert not (tmp_path / "b").exists()
    assert "failed" in (tmp_path / "page" / "index.html").read_text()
    taken = poster_edge(*arguments, "--no-gate", cwd=tmp_path)
    assert taken.returncode == 0, taken.stderr
    assert load_bundle(tmp_path / "b").manifest.gate == {"skipped": "--no-gate"}


def test_sensitive_layers_go_back_to_float(poster_edge: Command, calibration: Calibration, tmp_path: Path) -> None:
    """One layer with a range far too small: it alone is put back, and the rest stays INT8."""
    model = onnx.load_from_string(load_bundle("poster-nano").read("model.onnx"))
    head = next(n for n in model.graph.node if n.output[0] == "logits")
    spoilt = {**calibration.ranges, head.input[0]: dict.fromkeys(calibration.ranges[head.input[0]], 0.01)}
    source = nano_with(tmp_path, replace(calibration, ranges=spoilt))
    done = poster_edge("export", "--model", str(source), "--int8", "--target", "onnxruntime", "-o", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"1 sensitive layers stay in float: {head.name}" in done.stderr
    gate = load_bundle(tmp_path / "b").manifest.gate
    assert gate is not None
    assert gate["models"]["model.int8.onnx"]["restored"] == [head.name]


def save_npz(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    names = np.array(load_bundle("poster-nano").manifest.classes)
    np.savez(path, images=images, labels=labels, classes=names)


@pytest.mark.parametrize("kind", ["noise", "one class"])
def test_wrong_calibration_sets_are_caught(poster_edge: Command, fer: Path, tmp_path: Path, kind: str) -> None:
    from poster_edge.data.faces import load_faces

    rng = np.random.default_rng(0)
    if kind == "noise":
        images, labels = rng.integers(0, 256, (64, 48, 48), dtype=np.uint8), np.arange(64) % 7
    else:
        faces = load_faces(fer)
        rows = np.flatnonzero((faces.labels == 3) & (faces.roles == "train"))[:64]
        images, labels = np.stack([faces.read(int(i)) for i in rows]), faces.labels[rows]
    save_npz(tmp_path / "calib.npz", images, labels)
    done = poster_edge(
        "export", *NANO, "--int8", "--calib", "calib.npz", "--data", str(fer), *FEW, "-o", "b", cwd=tmp_path
    )
    assert done.returncode == 3, done.stderr
    assert "is no fit calibration set" in done.stderr
    assert ("grain" if kind == "noise" else "'happy' in") in done.stderr
    assert not (tmp_path / "b").exists()


def test_swapped_colours_are_caught(poster_edge: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    """A model fed in colour, calibrated on faces whose red and blue are swapped."""
    source = load_bundle(tiny_bundle)
    graph = tmp_path / "model.onnx"
    graph.write_bytes(_named(source.read("model.onnx")))
    card = tmp_path / "MODEL_CARD.md"
    card.write_text("# tiny\n")
    manifest = replace(source.manifest, preprocess=replace(source.manifest.preprocess, colour="rgb"))
    write_bundle(tmp_path / "colour", manifest, {"model.onnx": graph, "MODEL_CARD.md": card})
    crops = np.stack([cv2.resize(c, (32, 32)) for c in sample_crops(manifest.preprocess)])
    labels = np.arange(len(crops)) % 7
    save_npz(tmp_path / "right.npz", crops, labels)
    save_npz(tmp_path / "swapped.npz", crops[..., ::-1], labels)
    arguments = ("export", "--model", "colour", "--int8", "--target", "onnxruntime", "--data", "right.npz")
    swapped = poster_edge(*arguments, "--calib", "swapped.npz", "-o", "bad", cwd=tmp_path)
    assert swapped.returncode == 3, swapped.stderr
    assert "first channel less last" in swapped.stderr
    right = poster_edge(*arguments, "--calib", "right.npz", "-o", "good", "--report", "page", cwd=tmp_path)
    assert "first channel less last" not in right.stderr
    few = f"right.npz: only {len(crops)} images to calibrate on were found; 512 were asked for"
    assert few in right.stderr
    page = (tmp_path / "page" / "index.html").read_text()
    assert few in page[page.index('id="warnings"') :], "a page that is handed on says what the terminal said"


def _named(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    for i, node in enumerate(model.graph.node):
        node.name = f"n{i}"
    return model.SerializeToString()


def test_folders_without_faces(poster_edge: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain").mkdir()
    cv2.imwrite(str(tmp_path / "plain" / "gray.png"), np.full((200, 200, 3), 127, np.uint8))
    for folder, message in (("empty", "the folder is empty"), ("plain", "no face found"), ("absent", "no such file")):
        done = poster_edge("export", *NANO, "--int8", "--calib", folder, "-o", "b", cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert message in done.stderr
        assert len(done.stderr.splitlines()) <= 3
        assert not (tmp_path / "b").exists()


def test_three_images_are_taken_with_a_warning(poster_edge: Command, tmp_path: Path) -> None:
    crops = sample_crops(load_bundle("poster-nano").manifest.preprocess)[:3]
    folder = tmp_path / "happy"
    folder.mkdir()
    for i, crop in enumerate(crops):
        cv2.imwrite(str(folder / f"{i}.png"), crop)
    done = poster_edge(
        *("export", *NANO, "--int8", "--no-gate", "--target", "onnxruntime"),
        *("--calib", str(tmp_path), "-o", "b"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "fewer than 32 images are unreliable; there are 3" in done.stderr


def test_weights_of_7_bits(both: tuple[Bundle, str], poster_edge: Command, tmp_path: Path) -> None:
    model = ("--model", str(both[0].folder), "--target", "openvino")
    done = poster_edge("export", *model, "--int8", "--weight-bits", "7", "-o", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(tmp_path / "b")
    assert pairs_fit(bundle.read("model.int8-inputs.onnx"))
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration["weight_bits"] == 7
    assert "OpenVINO" in done.stderr
    assert "saturate" not in done.stderr
    assert not pairs_fit(both[0].read("model.int8.onnx"))


def test_auto_keeps_the_fastest_that_passes(both: tuple[Bundle, str], poster_edge: Command, tmp_path: Path) -> None:
    done = poster_edge(
        "export",
        "--model",
        str(both[0].folder),
        "--precision",
        "auto",
        "--target",
        "onnxruntime",
        "-o",
        "b",
        "--report",
        "page",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page" / "index.html").read_text()
    assert "<th>speed</th>" in page
    assert 'id="warnings"' not in page, "what is fastest is no warning"
    line = next(line for line in done.stderr.splitlines() if "taken in turns" in line)
    manifest = load_bundle(tmp_path / "b").manifest
    if manifest.precision == "fp32":
        assert "no lower precision is surely faster by 3%: fp32 is kept" in line
        assert "model.int8.onnx" not in manifest.artefacts
        assert manifest.gate is None
    else:
        assert f"{manifest.precision} is the fastest that passes" in line
    assert all(f"{p} " in line for p in ("fp32", "fp16", "int8"))


@pytest.mark.parametrize(
    ("fp32", "fp16", "int8", "spread", "best", "said"),
    [
        (2.0, 2.2, 1.0, 0.02, "int8", "; int8 is the fastest that passes, fp16 not surely faster than fp32 by 3%"),
        (2.0, 1.5, 1.0, 0.02, "int8", "; int8 is the fastest that passes"),
        (2.0, 1.0, 2.1, 0.02, "fp16", "; fp16 is the fastest that passes, int8 not surely faster than fp32 by 3%"),
        (2.0, 1.97, 1.96, 0.02, "fp32", "; no lower precision is surely faster by 3%: fp32 is kept"),
        (2.0, 3.0, 4.0, 0.02, "fp32", "; no lower precision is surely faster by 3%: fp32 is kept"),
        # What a busy machine gives: medians that differ by chance.
        (135.0, 128.0, 139.0, 60.0, "fp32", "; no lower precision is surely faster by 3%: fp32 is kept"),
    ],
)
def test_the_verdict_on_speed_says_what_is_no_faster(
    fp32: float, fp16: float, int8: float, spread: float, best: str, said: str
) -> None:
    rng = np.random.default_rng(0)
    noise = {n: rng.permutation(np.linspace(-spread, spread, 51)) for n in ("fp32", "fp16", "int8")}
    times = {n: median + noise[n] for n, median in (("fp32", fp32), ("fp16", fp16), ("int8", int8))}
    found, told = fastest(times, judged=True)
    assert found == best
    assert told.endswith(said)
    assert f"int8 {fp32 / int8:.2f} times as fast as fp32" in told
    assert "passes" not in fastest(times, judged=False)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "auto", "--target", "tensorrt"), "--precision auto times onnxruntime or OpenVINO"),
        (("--int8", "--precision", "fp16"), "contradicts --int8"),
        (("--half", "--precision", "fp32"), "contradicts --half"),
        (("--report", "x"), "--report is about FP16 and INT8"),
        (("--model", "a", "--checkpoint", "b"), "not both"),
        (("--random-weights",), "goes with --model"),
    ],
)
def test_contradictions(poster_edge: Command, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = poster_edge("export", *arguments, "-o", "b", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_gate_report_is_plain_json(both: tuple[Bundle, str]) -> None:
    manifest = both[0].manifest
    assert json.loads(json.dumps(asdict(manifest)))["gate"]["models"]["model.int8.onnx"]["precision"] == "int8"


def test_ranges_can_be_kept_for_later(poster_edge: Command, tmp_path: Path) -> None:
    """--calib without a lower precision packs the ranges; the bundle can then be exported without images."""
    crops = sample_crops(load_bundle("poster-nano").manifest.preprocess)
    (tmp_path / "faces" / "happy").mkdir(parents=True)
    for i, crop in enumerate(crops):
        cv2.imwrite(str(tmp_path / "faces" / "happy" / f"{i}.png"), crop)
    model = ("--model", str(load_bundle("poster-nano").folder))
    done = poster_edge("export", *model, "--calib", "faces", "--no-gate", "-o", "kept", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(tmp_path / "kept")
    assert bundle.manifest.precision == "fp32"
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration["images"] == len(crops)
    assert {"model.onnx", "calibration.json"} <= bundle.manifest.artefacts.keys()
    assert not [n for n in bundle.manifest.artefacts if "int8" in n]
