"""The way of a model through the commands: train, export, eval, run; and convert, export."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from poster_edge.cli.main import cli
from poster_edge.cli.train import accuracy_text
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import read_info
from poster_edge.models.config import CONFIGS
from poster_edge.runtime.bundle import load_bundle

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def checked(poster_edge: Command) -> Command:
    """Run a command that must succeed."""

    def run(*args: str, cwd: Path) -> CompletedProcess[str]:
        done = poster_edge(*args, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command in this process, which has loaded torch already; errors of ours are raised."""

    def run(*args: str, cwd: Path) -> Result:
        monkeypatch.chdir(cwd)
        return CliRunner().invoke(cli, args, catch_exceptions=False)

    return run


@pytest.fixture(scope="module")
def work(checked: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two classes of toy faces as ``.npz`` and a trained, exported bundle ``b``."""
    folder = tmp_path_factory.mktemp("way")
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = rng.integers(0, 80, (64, 48, 48), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[24 * label : 24 * label + 24] += 120
    np.savez(folder / "faces.npz", images=images, labels=labels, classes=np.array(["sad", "happy"]))
    arguments = ["--data", "faces.npz", "--epochs", "4", "--landmark-epochs", "1", "--batch", "8", "--device", "cpu"]
    trained = checked("train", *arguments, "-o", "r", cwd=folder)
    (folder / "train.txt").write_text(trained.stderr)
    checked("export", "--checkpoint", "r/best.safetensors", "-o", "b", "--data", "faces.npz", cwd=folder)
    return folder


def test_training_ends_with_what_it_reached(work: Path) -> None:
    *_, best, file = (work / "train.txt").read_text().splitlines()
    assert re.fullmatch(r"best epoch \d: \d+\.\d\d% of \d+ validation images", best), "no twins, no word of them"
    assert file == "r/best.safetensors"


@pytest.mark.parametrize(
    ("twins", "words"), [(0, ""), (1, " (50.00% without 1 twin "), (7, " (50.00% without 7 twins ")]
)
def test_twins_are_told_where_there_are_some(twins: int, words: str) -> None:
    summary = {"validation": {"accuracy": 0.75, "count": 8}, "validation_without_twins": {"accuracy": 0.5}}
    text = accuracy_text({**summary, "validation_twins": twins})
    assert text.removeprefix("75.00% of 8 validation images").startswith(words)
    assert bool(words) == ("(" in text)


def test_training_can_go_on_and_protects_itself(poster_edge: Command, work: Path) -> None:
    again = poster_edge("train", "--data", "faces.npz", "-o", "r", cwd=work)
    assert again.returncode == 2
    assert "--resume" in again.stderr


def test_bundle_is_complete(work: Path) -> None:
    bundle = load_bundle(work / "b")
    bundle.verify()
    manifest = bundle.manifest
    assert manifest.classes == ("sad", "happy")
    assert set(manifest.artefacts) == {"model.onnx", "model.safetensors", "MODEL_CARD.md"}
    assert manifest.parity["images"] == 64
    assert manifest.parity["max_abs"] < 1e-4 * manifest.parity["scale"]
    assert manifest.training["validation"]["count"] > 0
    card = (work / "b" / "MODEL_CARD.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0")
    assert "Art. 5(1)(f)" in card


@pytest.fixture(scope="module")
def random(checked: Command, work: Path) -> Path:
    """A bundle without training; this network is exported in a third of poster-nano's time."""
    checked("export", "--model", "cf-dan-nano", "--random-weights", "-o", "random", cwd=work)
    return work / "random"


def test_a_packed_bundle_exports_again(
    poster_edge: Command, inside: Callable[..., Result], work: Path, random: Path
) -> None:
    words = ("export", "--checkpoint", str(random / "model.safetensors"), "-o", "again")
    assert inside(*words, cwd=work).exit_code == 0
    one, two = load_bundle(random).manifest, load_bundle(work / "again").manifest
    assert one.artefacts["model.onnx"] == two.artefacts["model.onnx"], "export is deterministic"
    refused = poster_edge(*words, cwd=work)
    assert (refused.returncode, "--force" in refused.stderr) == (2, True)


def test_eval_matches_labels_by_name(inside: Callable[..., Result], work: Path) -> None:
    """The same faces with the classes in the other order, as folders: the figures do not change."""
    with np.load(work / "faces.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = work / "folders" / ["sadness", "Happy"][label]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    reports = []
    for data in ("faces.npz", "folders"):
        words = ("eval", "--model", "b", "--data", data, "--json", f"{data}.json", "--plot", f"{data}.png")
        assert inside(*words, cwd=work).exit_code == 0
        reports.append(json.loads((work / f"{data}.json").read_text()))
        picture = cv2.imread(str(work / f"{data}.png"))
        assert picture.shape[0] > 200
    assert reports[0]["accuracy"] == reports[1]["accuracy"] > 0.9
    assert reports[0]["confusion"] == reports[1]["confusion"]
    assert reports[0]["recall"] == reports[1]["recall"]


def test_eval_reports_what_it_left_out(poster_edge: Command, work: Path) -> None:
    (work / "mixed" / "contempt").mkdir(parents=True)
    (work / "mixed" / "happy").mkdir()
    for folder in ("contempt", "happy"):
        cv2.imwrite(str(work / "mixed" / folder / "a.png"), np.zeros((48, 48), np.uint8))
    (work / "mixed" / "happy" / "torn.jpg").write_bytes(b"\xff\xd8 torn")
    done = poster_edge("eval", "--model", "b", "--data", "mixed", "--json", "-", cwd=work)
    report = json.loads(done.stdout)
    assert (report["count"], report["unknown_class"], report["unreadable"]) == (1, 1, 1)
    assert "torn.jpg: not a readable image" in done.stderr
    assert done.returncode == 1


def test_random_weights_are_marked_and_run_says_so(checked: Command, work: Path, random: Path) -> None:
    assert not load_bundle(random).manifest.has_trained_weights
    cv2.imwrite(str(work / "crop.png"), np.full((64, 64, 3), 99, np.uint8))
    done = checked("run", "--source", "crop.png", "--detector", "none", "--model", "random", cwd=work)
    assert "random weights" in done.stderr


def test_weights_in_fp16_say_that_their_figures_are_of_the_others(inside: Callable[..., Result], work: Path) -> None:
    words = ("convert", "--checkpoint", "r/best.safetensors", "--half", "-o", "half.safetensors")
    assert inside(*words, cwd=work).exit_code == 0
    before, after = (read_info(work / name).training for name in ("r/best.safetensors", "half.safetensors"))
    assert after == {**before, "rounded_to": "fp16"}
    assert before["validation"]["count"] > 0


def test_a_published_checkpoint_is_converted(poster_edge: Command, inside: Callable[..., Result], work: Path) -> None:
    torch.manual_seed(0)
    state = {f"module.{k}": v for k, v in build_network(CONFIGS["poster-t"]).state_dict().items()}
    torch.save({"iter": 1, "model_state_dict": state, "optimizer_state_dict": {}}, work / "rafdb.pth")
    done = inside("convert", "--checkpoint", "rafdb.pth", "--dataset", "rafdb", "-o", "t.safetensors", cwd=work)
    assert done.exit_code == 0
    assert "39,284,991 take part" in done.stderr
    kept = poster_edge("convert", "--checkpoint", "rafdb.pth", "--dataset", "rafdb", "-o", "t.safetensors", cwd=work)
    assert kept.returncode == 2
    assert "--force" in kept.stderr
    half = inside("convert", "--checkpoint", "t.safetensors", "--half", "-o", "h.safetensors", cwd=work)
    assert "in FP16, changed by at most" in half.stderr
    assert (work / "h.safetensors").stat().st_size < 0.51 * (work / "t.safetensors").stat().st_size
