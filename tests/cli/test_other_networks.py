"""The networks beside POSTER go the same way through the commands: train, export, eval, run on a photo."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from poster_edge.models.config import CONFIGS
from poster_edge.runtime.bundle import load_bundle
from poster_edge.train.recipe import recipe_for

Command = Callable[..., CompletedProcess[str]]
PHOTO = Path(__file__).resolve().parents[2] / "poster_edge" / "zoo" / "samples" / "astronaut.jpg"


#: A rate at which each learns two toy classes in seconds.
RATES = {"fer-vt-nano": 1e-3, "cf-dan-nano": 2e-3}


@pytest.fixture(scope="module", params=RATES)
def way(request: pytest.FixtureRequest, poster_edge: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy faces ``faces.npz``, a run ``r`` and its bundle ``b`` in FP32, FP16 and INT8."""
    folder = tmp_path_factory.mktemp("way")
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 2
    images = rng.integers(0, 80, (96, 48, 48), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[24 * label : 24 * label + 24] += 120
    classes = np.array(["sad", "happy"])
    np.savez(folder / "faces.npz", images=images, labels=labels, classes=classes)
    np.savez(folder / "mesh.npz", landmarks=np.zeros((96, 68, 2)), presence=np.ones(96), self_incons=np.zeros(96))
    data = ("--data", "faces.npz")
    forms = ("--int8", "--half", "--calib", "faces.npz", "--target", "onnxruntime")
    short = ("--epochs", "8", "--batch", "8", "--lr", str(RATES[request.param]))
    commands = (
        ("train", "--model", request.param, *data, *short, "--device", "cpu", "-o", "r"),
        ("export", "--checkpoint", "r/best.safetensors", *data, *forms, "-o", "b"),
    )
    for command in commands:
        done = poster_edge(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_bundle_holds_every_precision(way: Path) -> None:
    bundle = load_bundle(way / "b")
    bundle.verify()
    manifest = bundle.manifest
    assert {"model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.safetensors"} <= set(manifest.artefacts)
    assert manifest.parity["max_abs"] < 1e-4 * manifest.parity["scale"]
    assert manifest.gate is not None
    assert manifest.gate["passed"]
    own = asdict(replace(recipe_for(CONFIGS[manifest.model]), epochs=8, batch=8, lr=RATES[manifest.model]))
    assert manifest.training["recipe"] == json.loads(json.dumps(own)), "the network's own recipe"
    assert "landmark stream" not in (way / "b" / "MODEL_CARD.md").read_text()


def test_landmarks_are_refused_in_one_line(way: Path, poster_edge: Command) -> None:
    model = json.loads((way / "r" / "config.json").read_text())["model"]
    done = poster_edge("train", "--model", model, "--data", "faces.npz", "--landmarks", "mesh.npz", "-o", "l", cwd=way)
    assert done.returncode == 2
    assert f"{model} has no landmark stream" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (way / "l").exists()


def test_measured_and_run_in_int8(way: Path, poster_edge: Command) -> None:
    done = poster_edge("eval", "--model", "b", "--data", "faces.npz", "--json", "-", cwd=way)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] > 0.9
    seen = poster_edge("run", "--source", str(PHOTO), "--model", "b", "--jsonl", "-", "--detector", "haar", cwd=way)
    assert seen.returncode == 0, seen.stderr
    face = json.loads(seen.stdout.splitlines()[0])["faces"][0]
    assert face["label"] in ("sad", "happy")
    assert "int8" in seen.stderr


def test_a_variant_of_an_ablation_is_exported_and_runs(poster_edge: Command, tmp_path: Path) -> None:
    model = "poster-nano@image-only"
    done = poster_edge("export", "--model", model, "--random-weights", "--compare", "2", "-o", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_bundle(str(tmp_path / "b")).manifest.model == model
    assert "| 108 M |" in (tmp_path / "b" / "MODEL_CARD.md").read_text()
    done = poster_edge("run", "--model", "b", "--source", str(PHOTO), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert model in done.stderr + done.stdout
