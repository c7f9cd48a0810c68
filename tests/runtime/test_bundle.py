"""Bundles: written whole, checked on load, refused when anything does not fit."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from poster_edge import files
from poster_edge.config import Preprocess
from poster_edge.errors import PosterEdgeError, UnavailableError, UsageError
from poster_edge.files import replace_folder, sweep
from poster_edge.runtime.bundle import Bundle, load_bundle, write_bundle
from poster_edge.runtime.classifier import Classifier
from poster_edge.runtime.manifest import BundleError, Manifest
from poster_edge.runtime.ort_runner import OrtRunner

SIZE = 8
CLASSES = ("happy", "sad", "angry")


def tiny_graph() -> onnx.ModelProto:
    """logits = mean over the picture of each channel, times 10: red is "happy", and so on."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "ten"], ["logits"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        numpy_helper.from_array(np.array(10, np.float32), "ten"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "tiny", [image], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def manifest(**changes: Any) -> Manifest:
    preprocess = Preprocess(size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Manifest(**{"model": "tiny", "classes": CLASSES, "preprocess": preprocess, "artefacts": {}, **changes})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    source = tmp_path / "source.onnx"
    source.write_bytes(tiny_graph().SerializeToString())
    return write_bundle(tmp_path / "tiny", manifest(), {"model.onnx": source})


def colour(*bgr: int) -> np.ndarray:
    return np.full((20, 30, 3), bgr, np.uint8)


def test_round_trip_and_classification(bundle: Bundle) -> None:
    again = load_bundle(bundle.folder)
    again.verify()
    assert again.manifest == bundle.manifest
    with Classifier(again) as classify:
        probabilities = classify([colour(0, 0, 255), colour(255, 0, 0), colour(0, 255, 0)])
        assert probabilities.argmax(axis=1).tolist() == [0, 2, 1]
        assert np.allclose(probabilities.sum(axis=1), 1)
        assert classify([]).shape == (0, 3)
        assert "CPU" in classify.runtime
        assert classify.last_ms["infer"] >= 0


def test_temperature_softens_and_changes_no_decision(bundle: Bundle, tmp_path: Path) -> None:
    source = bundle.folder / "model.onnx"
    soft = write_bundle(tmp_path / "soft", manifest(temperature=4.0), {"model.onnx": source})
    with Classifier(bundle) as sharp, Classifier(soft) as mild:
        a, b = sharp([colour(0, 100, 255)]), mild([colour(0, 100, 255)])
    assert a.argmax() == b.argmax()
    assert a.max() > b.max()


@pytest.mark.parametrize("position", [0, 60, -1])
def test_one_changed_byte_is_refused(bundle: Bundle, position: int) -> None:
    path = bundle.folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"model.onnx: its SHA-256 is not the manifest's"), Classifier(bundle):
        pass


def test_truncated_missing_and_linked_files_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle.folder / "model.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(BundleError, match="bytes, the manifest says"):
        bundle.verify()
    path.unlink()
    with pytest.raises(BundleError, match="missing"):
        bundle.verify()
    (tmp_path / "elsewhere.onnx").write_bytes(whole)
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="link"):
        bundle.verify()


def set_entry(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_entry("schema", value=99), "schema 99"),
        (set_entry("classes", value=["happy"]), "at least two"),
        (set_entry("classes", value=["happy", "happy"]), "twice"),
        (set_entry("temperature", value=0), "temperature"),
        (set_entry("temperature", value=float("nan")), "temperature"),
        (set_entry("preprocess", "colour", value="cmyk"), "colour"),
        (set_entry("preprocess", "size", value="big"), "preprocess"),
        (set_entry("preprocess", "size", value=float("inf")), "infinity"),
        (set_entry("preprocess", "std", value=[1, 0, 1]), "std"),
        (set_entry("preprocess", "std", value=[1, float("nan"), 1]), "std"),
        (set_entry("preprocess", "mean", value=[0, float("nan"), 0]), "mean"),
        (set_entry("preprocess", "margin", value=float("nan")), "margin"),
        (set_entry("preprocess", "shift_y", value=1e308), "shift_y"),
        (set_entry("model", value=3), "'model' must be text"),
        (set_entry("surprise", value=1), "surprise"),
        (set_entry("artefacts", "model.onnx", "sha256", value="zz"), "sha256"),
        (set_entry("artefacts", value={"../../etc/passwd": {}}), "no plain file name"),
        (set_entry("gate", value=[]), "gate"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_damaged_manifests_say_what_is_wrong(bundle: Bundle, change: Any, message: str) -> None:
    path = bundle.folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle.folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * 2_000_000], ids=lambda b: str(b[:2])
)
def test_manifests_that_are_no_json(bundle: Bundle, content: bytes) -> None:
    (bundle.folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_bundle(bundle.folder)


def test_missing_bundles_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="packaged models"):
        load_bundle("no-such-model")
    with pytest.raises(BundleError, match="no bundle"):
        load_bundle(tmp_path)
    (tmp_path / "file.onnx").write_text("x")
    with pytest.raises(BundleError, match="takes the folder"):
        load_bundle(tmp_path / "file.onnx")


def rewrite(bundle: Bundle, proto: onnx.ModelProto, **changes: Any) -> Bundle:
    source = bundle.folder.parent / "other.onnx"
    source.write_bytes(proto.SerializeToString())
    return write_bundle(bundle.folder, manifest(**changes), {"model.onnx": source}, force=True)


def test_graph_that_does_not_fit_its_manifest(bundle: Bundle) -> None:
    other = rewrite(bundle, tiny_graph(), classes=("a", "b"))
    with pytest.raises(BundleError, match="do not fit the manifest"), Classifier(other, runtime="onnxruntime"):
        pass


@pytest.mark.parametrize("link", [False, True], ids=["beside", "hard-link"])
def test_external_data_is_refused(bundle: Bundle, tmp_path: Path, link: bool) -> None:
    """A graph may not read files, not even one that lies in its own folder."""
    proto = tiny_graph()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.array(10, np.float32).tobytes())
    tensor = proto.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    other = rewrite(bundle, proto)
    (os.link if link else shutil.copy)(secret, other.folder / "weights.bin")
    before = Path.cwd()
    os.chdir(other.folder)
    try:
        with pytest.raises(BundleError, match="cannot load"), Classifier(other, runtime="onnxruntime"):
            pass
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    "content",
    [b"", b"not onnx", b"\x08\x09" * 50, b"\x3a\xff\xff\xff\xff\x0f"],
    ids=["empty", "text", "junk", "length"],
)
def test_broken_graphs_are_one_clear_line(bundle: Bundle, capfd: pytest.CaptureFixture[str], content: bytes) -> None:
    source = bundle.folder.parent / "broken.onnx"
    source.write_bytes(content)
    broken = write_bundle(bundle.folder, manifest(), {"model.onnx": source}, force=True)
    with (
        pytest.raises(BundleError, match=r"model.onnx: onnxruntime cannot load it") as caught,
        Classifier(broken, runtime="onnxruntime"),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


def test_a_provider_asked_for_by_name_is_served_or_refused(bundle: Bundle) -> None:
    with pytest.raises(UnavailableError, match="no CUDA provider"):
        OrtRunner(bundle, device="cuda:0")
    with pytest.raises(UsageError, match="expected auto, cpu, cuda:N"):
        OrtRunner(bundle, device="tpu")
    with pytest.raises(UsageError, match="--runtime tensorflow"):
        Classifier(bundle, runtime="tensorflow")
    with pytest.raises(BundleError, match="no int8 model"):
        bundle.model_file("int8")


def test_existing_targets_are_kept(bundle: Bundle, tmp_path: Path) -> None:
    source = bundle.folder / "model.onnx"
    with pytest.raises(UsageError, match="--force"):
        write_bundle(bundle.folder, manifest(), {"model.onnx": source})
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years")
    with pytest.raises(UsageError, match="no bundle"):
        write_bundle(precious, manifest(), {"model.onnx": source}, force=True)
    assert (precious / "thesis.tex").read_text() == "years"


def test_a_failed_write_leaves_the_old_bundle(bundle: Bundle, tmp_path: Path) -> None:
    before = (bundle.folder / "manifest.json").read_bytes()
    with pytest.raises(PosterEdgeError, match="cannot write"):
        write_bundle(bundle.folder, manifest(), {"model.onnx": tmp_path / "absent.onnx"}, force=True)
    assert (bundle.folder / "manifest.json").read_bytes() == before
    bundle.verify()
    assert not list(tmp_path.glob(".poster-edge-tmp-*"))


def test_leftovers_of_killed_writers_are_collected(tmp_path: Path) -> None:
    stale, fresh = tmp_path / ".poster-edge-tmp-aa-x", tmp_path / ".poster-edge-tmp-bb-y"
    stale.mkdir()
    (stale / "model.onnx").write_text("half")
    fresh.write_text("being written")
    os.utime(stale, (1, 1))
    assert sweep(tmp_path) == [stale]
    assert fresh.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot swap two folders in one step")
def test_a_bundle_is_there_at_every_moment_of_its_replacement(tmp_path: Path) -> None:
    target, missed, done = tmp_path / "bundle", [], threading.Event()
    target.mkdir()

    def watch() -> None:
        while not done.is_set():
            missed.extend([1] * (not target.exists()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(300):
        new = tmp_path / f"new-{number}"
        new.mkdir()
        (new / "number").write_text(str(number))
        replace_folder(new, target)
    done.set()
    watcher.join()
    assert (target / "number").read_text() == "299"
    assert missed == []
    assert list(tmp_path.iterdir()) == [target]


def test_where_folders_cannot_be_swapped_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_swap", lambda first, second: False)
    for name in ("bundle", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "number").write_text("1")
    replace_folder(tmp_path / "new", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "number").read_text() == "1"
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]
